use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::listen::ClientStream;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ip(client: &str, met: &str) -> Option<Ends> {
    Some(Ends::Ip { client: addr(client), met: addr(met) })
}

fn whole(data: &[u8]) -> Result<Header, Refused> {
    match parse(data)? {
        Step::Whole(header, end) => {
            assert_eq!(end, data.len());
            Ok(header)
        }
        Step::More(least) => panic!("{least} bytes are wanted of {}", data.escape_ascii()),
    }
}

/// A header of version 2 with anything in it.
fn second(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, body].concat()
}

/// Client and destination of IPv4, for `second`.
const FOUR: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn lines_of_version_1_are_read() {
    for (line, ends) in [
        ("TCP4 192.0.2.1 192.0.2.2 56324 443", ip("192.0.2.1:56324", "192.0.2.2:443")),
        ("TCP4 0.0.0.0 255.255.255.255 0 65535", ip("0.0.0.0:0", "255.255.255.255:65535")),
        ("TCP6 2001:DB8::1 ::1 1 2", ip("[2001:db8::1]:1", "[::1]:2")),
        ("TCP6 ::ffff:192.0.2.1 :: 1 2", ip("[::ffff:192.0.2.1]:1", "[::]:2")),
        ("UNKNOWN", None),
        ("UNKNOWN ", None),
        ("UNKNOWN ffff::1 what \tever it is", None),
    ] {
        let read = whole(format!("PROXY {line}\r\n").as_bytes());
        assert_eq!(read, Ok(Header { ends, tlvs: Tlvs::default() }), "{line}");
    }
    // The longest that the specification knows of (section 2.1).
    let longest = format!("PROXY UNKNOWN {0}:{0} {0}:{0} 65535 65535\r\n", "ffff:ffff:ffff:ffff");
    assert_eq!(longest.len(), 107);
    whole(longest.as_bytes()).expect("it is allowed");
}

#[test]
fn lines_that_are_not_as_they_should_be_are_refused() {
    for line in [
        "TCP4 192.0.2.1 192.0.2.2 56324 443 ",
        "TCP4  192.0.2.1 192.0.2.2 56324 443",
        "TCP4 192.0.2.1 192.0.2.2 56324",
        "TCP4 192.0.2.1 192.0.2.2 56324 443 1",
        "TCP4 192.0.2.01 192.0.2.2 56324 443",
        "TCP4 192.0.2 192.0.2.2 56324 443",
        "TCP4 192.0.2.1 192.0.2.2 056324 443",
        "TCP4 192.0.2.1 192.0.2.2 65536 443",
        "TCP4 192.0.2.1 192.0.2.2 +1 443",
        "TCP4 192.0.2.1 192.0.2.2 1 ",
        "TCP4 192.0.2.1 192.0.2.2 -1 443",
        "TCP4 ::1 ::1 1 2",
        "TCP6 192.0.2.1 192.0.2.2 1 2",
        "TCP6 ::1%lo ::1 1 2",
        "TCP6 [::1] ::1 1 2",
        "UDP4 192.0.2.1 192.0.2.2 1 2",
        "tcp4 192.0.2.1 192.0.2.2 1 2",
        "UNKNOWNX",
        " UNKNOWN",
        "",
    ] {
        let read = whole(format!("PROXY {line}\r\n").as_bytes());
        assert!(matches!(read, Err(Refused::Malformed(_))), "{line:?}: {read:?}");
    }
    for (data, why) in [
        (&b"PROXY UNKNOWN\n"[..], Refused::Malformed("its line ends without a CR")),
        (b"PROXY TCP4 \xff\r\n", Refused::Malformed("it is no text")),
        (b"proxy ", Refused::Missing),
        (b"PROXY\r\n", Refused::Missing),
        (b"GET / HTTP/1.1\r\n", Refused::Missing),
        (b"\x16\x03\x01", Refused::Missing),
        (b"\r\n\r\n\r\n", Refused::Missing),
    ] {
        assert_eq!(parse(data), Err(why), "{}", data.escape_ascii());
    }
    let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat();
    assert_eq!(parse(&long), Err(Refused::TooLong));
    assert_eq!(parse(&long[..107]), Err(Refused::TooLong));
    assert_eq!(parse(&long[..106]), Ok(Step::More(107)));
}

#[test]
fn version_2_is_read() {
    let four = ip("192.0.2.1:56324", "192.0.2.2:443");
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[2], &FOUR[8..]].concat();
    let unix = [0; 216];
    for (command, family, body, ends) in [
        (0x21, 0x11, FOUR, four),
        (0x21, 0x12, FOUR, four),
        (0x21, 0x21, &six, ip("[2001:db8::1]:56324", "[::2]:443")),
        (0x21, 0x31, &unix, Some(Ends::Unix)),
        (0x21, 0x00, FOUR, None),
        (0x21, 0x00, &[], None),
        (0x20, 0x00, &[], None),
        (0x20, 0x11, FOUR, None),
        (0x20, 0x11, &[1, 2, 3], None),
    ] {
        let read = whole(&second(command, family, body));
        assert_eq!(read, Ok(Header { ends, tlvs: Tlvs::default() }), "{command:x} {family:x}");
    }
    for (command, family, body) in [
        (0x11, 0x11, FOUR),
        (0x22, 0x11, FOUR),
        (0x21, 0x41, FOUR),
        (0x21, 0x13, FOUR),
        (0x20, 0x13, FOUR),
        (0x21, 0x11, &FOUR[1..]),
        (0x21, 0x21, FOUR),
        (0x21, 0x31, FOUR),
    ] {
        let read = whole(&second(command, family, body));
        assert!(matches!(read, Err(Refused::Malformed(_))), "{command:x} {family:x}: {read:?}");
    }
    let largest = second(0x21, 0x00, &vec![0; MOST_BYTES - 16]);
    whole(&largest).expect("it is allowed");
    let mut larger = largest[..16].to_vec();
    larger[14..].copy_from_slice(&((MOST_BYTES - 15) as u16).to_be_bytes());
    assert_eq!(parse(&larger), Err(Refused::TooLong), "before all of it is here");
}

#[test]
fn values_are_kept_and_checked() {
    let tlv =
        |kind: u8, value: &[u8]| [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat();
    let read = |values: &[u8]| whole(&second(0x21, 0x11, &[FOUR, values].concat()));
    let ssl = [
        &[0x05, 0, 0, 0, 0][..],
        &tlv(0x21, b"TLSv1.3"),
        &tlv(0x22, b"alice"),
        &tlv(0x23, b"TLS_AES_256_GCM_SHA384"),
    ];
    let values = [
        tlv(0x01, b"h2"),
        tlv(0x02, b"a.example"),
        tlv(0x04, b"..."),
        tlv(0x05, b"id"),
        tlv(0x20, &ssl.concat()),
        tlv(0xea, b"vpce"),
    ];
    let tlvs = read(&values.concat()).expect("it is sound").tlvs;
    assert_eq!(tlvs.get(Kind::Alpn), Some(&b"h2"[..]));
    assert_eq!(tlvs.get(Kind::Authority), Some(&b"a.example"[..]));
    assert_eq!(tlvs.get(Kind::UniqueId), Some(&b"id"[..]));
    assert_eq!(tlvs.iter().last(), Some((0xea, &b"vpce"[..])));
    let ssl = tlvs.ssl().expect("it is there");
    assert!(ssl.is_tls() && ssl.has_certificate() && ssl.is_verified());
    assert_eq!(ssl.version(), Some(&b"TLSv1.3"[..]));
    assert_eq!(ssl.common_name(), Some(&b"alice"[..]));
    assert_eq!(ssl.cipher(), Some(&b"TLS_AES_256_GCM_SHA384"[..]));

    for values in [
        &[0x01][..],
        &[0x01, 0],
        &[0x01, 0, 1],
        &[0x01, 0, 0, 0x02],
        &tlv(0x05, &[0; 129]),
        &tlv(0x20, &[1, 0, 0, 0]),
        &tlv(0x20, &[1, 0, 0, 0, 0, 0x21]),
        &tlv(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 1]),
        &tlv(0x03, &[0; 3]),
        &tlv(0x03, &[0; 4]).repeat(2),
    ] {
        let read = read(values);
        assert!(matches!(read, Err(Refused::Malformed(_))), "{values:?}: {read:?}");
    }
}

#[test]
fn a_checksum_must_be_right() {
    let values = [1, 0, 2, b'h', b'2', 3, 0, 4, 0, 0, 0, 0, 4, 0, 1, 9];
    let mut header = second(0x21, 0x11, &[FOUR, &values].concat());
    let at = header.len() - 8;
    let sum = crc32c::crc32c(&[&header]);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    whole(&header).expect("the sum is right");
    for bit in 16 * 8..header.len() * 8 {
        let mut other = header.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        // A bit of a kind or a length may make it something else, without a sum or with two.
        let read = parse(&other);
        if (16..16 + FOUR.len()).contains(&(bit / 8)) || (at..at + 4).contains(&(bit / 8)) {
            assert_eq!(read, Err(Refused::Checksum), "bit {bit}");
        }
    }
}

#[test]
fn headers_are_recognised_by_their_first_bytes() {
    let second = second(0x21, 0x11, FOUR);
    for (data, expected) in [
        (&b""[..], None),
        (b"P", None),
        (b"PROXY", None),
        (b"PROXY ", Some(true)),
        (b"PROXY x", Some(true)),
        (b"PROXYx", Some(false)),
        (b"POST", Some(false)),
        (b"\r\n", None),
        (&second[..11], None),
        (&second[..12], Some(true)),
        (&second, Some(true)),
        (b"\r\n\r\n\0\r\nQUIT ", Some(false)),
        (b"\r\nGET", Some(false)),
    ] {
        assert_eq!(is_header(data), expected, "{}", data.escape_ascii());
    }
}

#[test]
fn what_is_written_is_what_was_meant() {
    let header = |ends| Header { ends, tlvs: Tlvs::default() };
    for (ends, line) in [
        (ip("192.0.2.1:1", "192.0.2.2:2"), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        (ip("[2001:db8::1]:1", "[::2]:2"), "PROXY TCP6 2001:db8::1 ::2 1 2\r\n"),
        (ip("[::ffff:192.0.2.1]:1", "192.0.2.2:2"), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
        (ip("192.0.2.1:1", "[::2]:2"), "PROXY TCP6 ::ffff:192.0.2.1 ::2 1 2\r\n"),
        (ip("[::2]:2", "192.0.2.1:1"), "PROXY TCP6 ::2 ::ffff:192.0.2.1 2 1\r\n"),
        (Some(Ends::Unix), "PROXY UNKNOWN\r\n"),
        (None, "PROXY UNKNOWN\r\n"),
    ] {
        let written = write(ProxyVersion::V1, &header(ends));
        assert_eq!(written.escape_ascii().to_string(), line.escape_default().to_string());
    }
    let local = write(ProxyVersion::V2, &header(None));
    assert_eq!(local, second(0x20, 0x00, &[]));
    let four = write(ProxyVersion::V2, &header(ip("192.0.2.1:56324", "192.0.2.2:443")));
    assert_eq!(four, second(0x21, 0x11, FOUR));
    assert_eq!(write(ProxyVersion::V2, &header(Some(Ends::Unix))), second(0x21, 0x31, &[0; 216]));
    // What would make it too long stays out.
    let mut tlvs = Tlvs::default();
    tlvs.push(0xe0, &[0; MOST_BYTES]);
    tlvs.push(Kind::Authority as u8, b"a.example");
    let ends = ip("192.0.2.1:56324", "192.0.2.2:443");
    let written = write(ProxyVersion::V2, &Header { ends, tlvs });
    let read = whole(&written).expect("what we write we read").tlvs;
    assert_eq!(read.iter().collect::<Vec<_>>(), [(0x02, &b"a.example"[..])]);
}

fn any_ends() -> impl Strategy<Value = Option<Ends>> {
    let ips = || any::<(SocketAddr, SocketAddr)>();
    prop_oneof![
        Just(None),
        Just(Some(Ends::Unix)),
        ips().prop_map(|(client, met)| Some(Ends::Ip { client, met })),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_however_it_comes(
        ends in any_ends(),
        values in prop::collection::vec((0x06_u8..0x20, prop::collection::vec(any::<u8>(), 0..60)), 0..6),
        behind in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut tlvs = Tlvs::default();
        for (kind, value) in &values {
            tlvs.push(*kind, value);
        }
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let written = write(version, &Header { ends, tlvs: tlvs.clone() });
            let data = [&written[..], &behind].concat();
            let Ok(Step::Whole(header, end)) = parse(&data) else { panic!("{:?}", parse(&data)) };
            prop_assert_eq!(end, written.len());
            match (ends, header.ends) {
                (Some(Ends::Ip { client, met }), Some(Ends::Ip { client: c, met: m })) => {
                    prop_assert_eq!(client.ip().to_canonical(), c.ip().to_canonical());
                    prop_assert_eq!(met.ip().to_canonical(), m.ip().to_canonical());
                    prop_assert_eq!((client.port(), met.port()), (c.port(), m.port()));
                }
                (Some(Ends::Unix), None) => prop_assert_eq!(version, ProxyVersion::V1),
                (said, read) => prop_assert_eq!(said, read),
            }
            if version == ProxyVersion::V2 && ends.is_some() {
                prop_assert_eq!(&header.tlvs, &tlvs);
            }
            for cut in 0..written.len() {
                let Ok(Step::More(least)) = parse(&written[..cut]) else {
                    panic!("{cut}: {:?}", parse(&written[..cut]))
                };
                prop_assert!(cut < least && least <= written.len(), "{} {}", cut, least);
            }
        }
    }

    /// Whatever it is: no panic, and no more said of a part than holds of the whole.
    #[test]
    fn garbage_is_refused_or_read_in_one_way(
        start in prop::sample::select(vec![&b"PROXY "[..], b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11", b""]),
        rest in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n 0123456789.:\0".to_vec())], 0..120),
    ) {
        let data = [start, &rest].concat();
        let all = parse(&data);
        for cut in 0..data.len() {
            match (parse(&data[..cut]), &all) {
                (Ok(Step::More(least)), Ok(Step::Whole(_, end))) => prop_assert!(least <= *end),
                (Ok(Step::More(least)), _) => prop_assert!(least > cut),
                (Ok(Step::Whole(header, end)), all) => prop_assert_eq!(&Ok(Step::Whole(header, end)), all),
                (Err(_), all) => prop_assert!(all.is_err()),
            }
        }
    }
}

async fn pair() -> (tokio::net::TcpStream, ClientStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = tokio::net::TcpStream::connect(listener.local_addr().expect("bound"));
    let (client, accepted) = tokio::join!(client, listener.accept());
    let client = client.expect("connected");
    client.set_nodelay(true).expect("a socket");
    (client, ClientStream::Tcp(accepted.expect("accepted").0))
}

#[tokio::test]
async fn not_a_byte_is_taken_that_is_not_the_headers() {
    let mut tlvs = Tlvs::default();
    tlvs.push(0xe0, &[7; 3000]);
    let ends = ip("192.0.2.1:56324", "192.0.2.2:443");
    let header = Header { ends, tlvs };
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let written = write(version, &header);
        for cut in [1, 6, 12, 16, 17, 40, 300, 2999, written.len() - 1, written.len()] {
            let cut = cut.min(written.len());
            let (mut client, mut stream) = pair().await;
            client.write_all(&written[..cut]).await.expect("it is open");
            let more = async {
                tokio::task::yield_now().await;
                client.write_all(&[&written[cut..], b"GET /"].concat()).await.expect("it is open");
                client.shutdown().await.expect("it is open");
            };
            let (read, ()) = tokio::join!(read(&mut stream), more);
            assert_eq!(read.expect("it is sound").ends, ends);
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.expect("it is open");
            assert_eq!(rest, b"GET /", "{version:?}, cut at {cut}");
        }
    }
}

#[tokio::test]
async fn an_end_before_the_headers_is_no_header() {
    for sent in [&b""[..], b"PRO", b"PROXY TCP4 192.0.2.1"] {
        let (mut client, mut stream) = pair().await;
        client.write_all(sent).await.expect("it is open");
        client.shutdown().await.expect("it is open");
        assert!(matches!(read(&mut stream).await, Err(Failed::Gone)));
    }
    let (mut client, mut stream) = pair().await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.expect("it is open");
    assert!(matches!(read(&mut stream).await, Err(Failed::Refused(Refused::Missing))));
}
