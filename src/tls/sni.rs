//! What a TLS client asks for in its first message, the ClientHello, without decrypting: name and ALPN. (P)
//!
//! Reads from the start of a stream, however that was cut into records and segments (RFC 8446 4.1.2,
//! 5.1; RFC 6066 3; RFC 7301 3.1). Judges no more of the handshake than it takes to find these two, but
//! that strictly: what a backend might read in another way is no ClientHello.

/// The longest ClientHello that is read: with post-quantum keys it has some 2 KB, and one that resumes
/// with tickets and an early key share of several kinds not four times that.
pub const MOST_BYTES: usize = 16 * 1024;

/// Of a stream, so much is looked at: a hello may be cut into small records.
const MOST_OF_A_STREAM: usize = 2 * MOST_BYTES;

/// RFC 8446 5.1.
const HANDSHAKE: u8 = 22;
const MOST_OF_A_RECORD: usize = 1 << 14;

/// RFC 8446 4.
const CLIENT_HELLO: u8 = 1;

/// RFC 8446 4.2.
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// RFC 1035 2.3.4, without the root's dot.
const MOST_OF_A_NAME: usize = 253;
const MOST_OF_A_LABEL: usize = 63;

/// What is not a ClientHello as TLS 1.0 to 1.3 have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTls;

/// How far the bytes of a stream lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    NeedMore,
    Hello(Hello),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// A host name, in lower case and without a dot at its end.
    pub server_name: Option<String>,
    /// The protocols that the client offers, in its order.
    pub alpn: Vec<Vec<u8>>,
}

/// Reads what a stream begins with. Costs little as long as it needs more.
pub fn read(data: &[u8]) -> Result<Step, NotTls> {
    let Some(hello) = gather(data)? else {
        return if data.len() < MOST_OF_A_STREAM { Ok(Step::NeedMore) } else { Err(NotTls) };
    };
    body(&hello).map(Step::Hello)
}

/// The message, out of its records, without its type and length; `None` if it is not whole.
fn gather(data: &[u8]) -> Result<Option<Vec<u8>>, NotTls> {
    let Some(length) = length(data)? else { return Ok(None) };
    let mut message = Vec::with_capacity(4 + length);
    let mut records = Records(data);
    while message.len() < 4 + length {
        match records.next()? {
            Some(fragment) => message.extend_from_slice(fragment),
            None => return Ok(None),
        }
    }
    message.truncate(4 + length);
    Ok(Some(message.split_off(4)))
}

/// The length of the message, once all of it is here; nothing is copied to find out.
fn length(data: &[u8]) -> Result<Option<usize>, NotTls> {
    let mut records = Records(data);
    let mut head = [0; 4];
    let mut came = 0;
    while let Some(fragment) = records.next()? {
        for (to, &byte) in head[came.min(4)..].iter_mut().zip(fragment) {
            *to = byte;
        }
        came += fragment.len();
        if head[0] != CLIENT_HELLO {
            return Err(NotTls);
        }
        let [_, high, middle, low] = head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if came >= 4 && length > MOST_BYTES {
            return Err(NotTls);
        }
        if came >= 4 && came >= 4 + length {
            return Ok(Some(length));
        }
    }
    Ok(None)
}

/// What has come of records of the handshake, one after the other.
struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// The next record's fragment, or so much of it as is here.
    fn next(&mut self) -> Result<Option<&'a [u8]>, NotTls> {
        let data = self.0;
        let wrong = |at: usize, right: fn(u8) -> bool| data.get(at).is_some_and(|&b| !right(b));
        // Of the minor version it must be said only that it is none of SSL 2's lengths.
        if wrong(0, |kind| kind == HANDSHAKE)
            || wrong(1, |major| major == 3)
            || wrong(2, |m| m <= 4)
        {
            return Err(NotTls);
        }
        let Some((&[_, _, _, high, low], rest)) = data.split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Empty ones are forbidden (RFC 8446 5.1).
        if length == 0 || length > MOST_OF_A_RECORD {
            return Err(NotTls);
        }
        if rest.is_empty() {
            return Ok(None);
        }
        let (fragment, rest) = rest.split_at(length.min(rest.len()));
        self.0 = rest;
        Ok(Some(fragment))
    }
}

/// The message: version, random, session, cipher suites, compression, extensions (RFC 8446 4.1.2).
fn body(message: &[u8]) -> Result<Hello, NotTls> {
    let mut from = Reader(message);
    let major = from.take(2)?[0];
    from.take(32)?;
    let session = from.vector8()?;
    let suites = from.vector16()?;
    let compression = from.vector8()?;
    let odd = suites.is_empty() || suites.len() % 2 == 1;
    if major != 3 || session.len() > 32 || odd || compression.is_empty() {
        return Err(NotTls);
    }
    let mut hello = Hello::default();
    // Before TLS 1.3 a hello need not have any.
    if from.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Reader(from.vector16()?);
    from.end()?;
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let value = Reader(extensions.vector16()?);
        // None may come twice (RFC 8446 4.2).
        match kind {
            SERVER_NAME if std::mem::replace(&mut named, true) => return Err(NotTls),
            ALPN if std::mem::replace(&mut offered, true) => return Err(NotTls),
            SERVER_NAME => hello.server_name = server_name(value)?,
            ALPN => hello.alpn = alpn(value)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066 3: a list of names, of which one may be a host name, the only kind there is.
fn server_name(mut value: Reader<'_>) -> Result<Option<String>, NotTls> {
    const HOST_NAME: u8 = 0;
    let mut list = Reader(value.vector16()?);
    value.end()?;
    let kind = list.take(1)?[0];
    let name = list.vector16()?;
    list.end()?;
    if kind != HOST_NAME {
        return Err(NotTls);
    }
    let name = str::from_utf8(name).map_err(|_| NotTls)?;
    // Addresses are not permitted, and sent all the same: they name no host.
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Ok(None);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label =
        |label: &str| (1..=MOST_OF_A_LABEL).contains(&label.len()) && label.bytes().all(letter);
    match name.len() <= MOST_OF_A_NAME && name.split('.').all(label) {
        true => Ok(Some(name.to_ascii_lowercase())),
        false => Err(NotTls),
    }
}

/// RFC 7301 3.1.
fn alpn(mut value: Reader<'_>) -> Result<Vec<Vec<u8>>, NotTls> {
    let mut list = Reader(value.vector16()?);
    value.end()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.vector8()?.to_vec());
    }
    match protocols.is_empty() || protocols.iter().any(Vec::is_empty) {
        true => Err(NotTls),
        false => Ok(protocols),
    }
}

/// The rest of a structure. What is cut short in a message that is whole is none.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], NotTls> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(NotTls)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, NotTls> {
        let (number, rest) = self.0.split_first_chunk().ok_or(NotTls)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*number))
    }

    /// With its length in one byte before it.
    fn vector8(&mut self) -> Result<&'a [u8], NotTls> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// With its length in two bytes before it.
    fn vector16(&mut self) -> Result<&'a [u8], NotTls> {
        let length = self.number()?;
        self.take(length.into())
    }

    fn end(self) -> Result<(), NotTls> {
        if self.0.is_empty() { Ok(()) } else { Err(NotTls) }
    }
}

#[cfg(test)]
mod tests;
