//! What a header of version 2 says beside the addresses: types, lengths and values (section 2.2). (P)

use super::Refused;

/// The types that are known (section 2.2). Others are kept as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The protocol that was settled by ALPN.
    Alpn = 0x01,
    /// The name that the client asked for: its SNI.
    Authority = 0x02,
    Crc32c = 0x03,
    /// Padding.
    Noop = 0x04,
    UniqueId = 0x05,
    Ssl = 0x20,
    /// The sender's network namespace.
    Netns = 0x30,
}

/// Section 2.2.5.
const MOST_OF_A_UNIQUE_ID: usize = 128;

/// Values of a header in their order, checked; some may come more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(Vec<u8>);

impl Tlvs {
    pub fn read(bytes: &[u8]) -> Result<Tlvs, Refused> {
        check(bytes)?;
        let tlvs = Tlvs(bytes.to_vec());
        if tlvs.get(Kind::UniqueId).is_some_and(|id| id.len() > MOST_OF_A_UNIQUE_ID) {
            return Err(Refused::Malformed("its unique id is too long"));
        }
        if let Some(value) = tlvs.get(Kind::Ssl) {
            let ssl =
                Ssl::of(value).ok_or(Refused::Malformed("its account of TLS is cut short"))?;
            check(ssl.tlvs)?;
        }
        Ok(tlvs)
    }

    /// Adds a value; one that is longer than a value can be is left out.
    pub fn push(&mut self, kind: u8, value: &[u8]) {
        if let Ok(length) = u16::try_from(value.len()) {
            self.0.push(kind);
            self.0.extend(length.to_be_bytes());
            self.0.extend(value);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Tlv<'_>> {
        iter(&self.0)
    }

    /// The first of this kind.
    pub fn get(&self, kind: Kind) -> Option<&[u8]> {
        find(&self.0, kind as u8)
    }

    pub fn ssl(&self) -> Option<Ssl<'_>> {
        Ssl::of(self.get(Kind::Ssl)?)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What the client's TLS connection with the sender was like (section 2.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'a> {
    flags: u8,
    verify: u32,
    tlvs: &'a [u8],
}

impl<'a> Ssl<'a> {
    const VERSION: u8 = 0x21;
    const COMMON_NAME: u8 = 0x22;
    const CIPHER: u8 = 0x23;

    fn of(value: &'a [u8]) -> Option<Ssl<'a>> {
        let (flags, rest) = value.split_first()?;
        let (verify, tlvs) = rest.split_first_chunk()?;
        Some(Ssl { flags: *flags, verify: u32::from_be_bytes(*verify), tlvs })
    }

    /// The client came over TLS.
    pub fn is_tls(self) -> bool {
        self.flags & 0x01 != 0
    }

    /// The client showed a certificate, on this connection or on the session's first one.
    pub fn has_certificate(self) -> bool {
        self.flags & 0x06 != 0
    }

    /// That certificate was found good.
    pub fn is_verified(self) -> bool {
        self.has_certificate() && self.verify == 0
    }

    pub fn version(self) -> Option<&'a [u8]> {
        find(self.tlvs, Ssl::VERSION)
    }

    pub fn common_name(self) -> Option<&'a [u8]> {
        find(self.tlvs, Ssl::COMMON_NAME)
    }

    pub fn cipher(self) -> Option<&'a [u8]> {
        find(self.tlvs, Ssl::CIPHER)
    }
}

/// Type and value.
type Tlv<'a> = (u8, &'a [u8]);

/// Splits off the first; `None` if it is cut short.
fn split_first(bytes: &[u8]) -> Option<(Tlv<'_>, &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    Some(((kind, value), rest))
}

fn check(mut bytes: &[u8]) -> Result<(), Refused> {
    while !bytes.is_empty() {
        (_, bytes) =
            split_first(bytes).ok_or(Refused::Malformed("one of its values is cut short"))?;
    }
    Ok(())
}

fn iter(mut bytes: &[u8]) -> impl Iterator<Item = Tlv<'_>> {
    std::iter::from_fn(move || {
        let (tlv, rest) = split_first(bytes)?;
        bytes = rest;
        Some(tlv)
    })
}

fn find(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    iter(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}
