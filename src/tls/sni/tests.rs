use proptest::prelude::*;

use super::*;

fn number(n: usize) -> [u8; 2] {
    (n as u16).to_be_bytes()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&number(bytes.len()), bytes].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(value)].concat()
}

fn name(name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector16(&[&[0][..], &vector16(name)].concat()))
}

fn protocols(list: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = list.iter().flat_map(|p| [&[p.len() as u8][..], p].concat()).collect();
    extension(ALPN, &vector16(&list))
}

/// A ClientHello as a message of the handshake; `None` has no extensions at all.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([2, 1, 2]); // session
    body.extend([0, 4, 0x13, 1, 0x13, 2]); // cipher suites
    body.extend([1, 0]); // compression
    if let Some(extensions) = extensions {
        body.extend(vector16(extensions));
    }
    let length = (body.len() as u32).to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], &body].concat()
}

/// In records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |piece: &[u8]| [&[HANDSHAKE, 3, 1][..], &vector16(piece)].concat();
    message.chunks(size).flat_map(record).collect()
}

fn hello(extensions: &[u8]) -> Result<Step, NotTls> {
    read(&records(&message(Some(extensions)), MOST_OF_A_RECORD))
}

fn asks(server_name: Option<&str>, alpn: &[&[u8]]) -> Result<Step, NotTls> {
    let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Step::Hello(Hello { server_name: server_name.map(str::to_owned), alpn }))
}

#[test]
fn names_and_protocols_are_found() {
    let other = extension(51, &[7; 1184]);
    let all = [&other[..], &name(b"a.example"), &protocols(&[b"h2", b"http/1.1"])].concat();
    assert_eq!(hello(&all), asks(Some("a.example"), &[b"h2", b"http/1.1"]));
    assert_eq!(hello(&other), asks(None, &[]));
    assert_eq!(hello(&[]), asks(None, &[]));
    assert_eq!(read(&records(&message(None), 99)), asks(None, &[]));
    for (sent, read) in [
        ("A.Example", Some("a.example")),
        ("a.example.", Some("a.example")),
        ("a_b.xn--bcher-kva.example", Some("a_b.xn--bcher-kva.example")),
        ("localhost", Some("localhost")),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
    ] {
        assert_eq!(hello(&name(sent.as_bytes())), asks(read, &[]), "{sent}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_none() {
    let long = [[b'a'; 63]; 4].join(&b'.');
    let names: [&[u8]; 12] = [
        b"",
        b".",
        b"a..b",
        b".a",
        b"a b",
        b"a\0b",
        b"a/b",
        b"\xc3\xa4.example",
        b"*.example",
        &[b'a'; 64],
        &long,
        b"a:443",
    ];
    for sent in names {
        assert_eq!(hello(&name(sent)), Err(NotTls), "{}", sent.escape_ascii());
    }
    let one = name(b"a.example");
    let two = vector16(&[&[0, 0, 1, b'a'][..], &[0, 0, 1, b'b']].concat());
    for extensions in [
        [&one[..], &one].concat(),
        protocols(&[b"h2"]).repeat(2),
        protocols(&[]),
        protocols(&[b"h2", b""]),
        extension(SERVER_NAME, &[]),
        extension(SERVER_NAME, &[0, 0]),
        extension(SERVER_NAME, &two),
        extension(SERVER_NAME, &[0, 4, 1, 0, 1, b'a']),
        extension(SERVER_NAME, &[0, 4, 0, 0, 1, b'a', 0]),
        extension(SERVER_NAME, &[0, 5, 0, 0, 1, b'a']),
        one[..one.len() - 1].to_vec(),
        vec![0],
    ] {
        assert_eq!(hello(&extensions), Err(NotTls), "{extensions:?}");
    }
    // Something behind the extensions, and cut before them.
    let sound = message(Some(&one));
    let mut longer = sound.clone();
    longer.push(0);
    longer[3] += 1;
    assert_eq!(read(&records(&longer, 99)), Err(NotTls));
    for cut in 4..sound.len() {
        let mut shorter = sound[..cut].to_vec();
        let length = ((cut - 4) as u32).to_be_bytes();
        shorter[1..4].copy_from_slice(&length[1..]);
        // Without extensions it is whole.
        let whole = cut == message(None).len();
        assert_eq!(read(&records(&shorter, 99)).is_ok(), whole, "cut at {cut}");
    }
}

#[test]
fn other_protocols_are_told_at_once() {
    let ssl2 = [0x80, 0x2e, 1, 3, 1];
    for data in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PROXY UNKNOWN\r\n",
        &ssl2,
        &[21, 3, 1, 0, 2, 1, 0],          // an alert
        &[22, 2, 0, 0, 5],                // SSL 2's length, or so
        &[22, 3, 9],                      // no version
        &[22, 3, 1, 0, 0],                // an empty record
        &[22, 3, 1, 0x40, 1],             // too long for a record
        &[22, 3, 1, 0, 4, 2],             // a ServerHello
        &[22, 3, 1, 0, 9, 1, 0, 0x40, 1], // too long for a hello
    ] {
        assert_eq!(read(data), Err(NotTls), "{}", data.escape_ascii());
        let first = read(&data[..1]);
        assert_eq!(first, if data[0] == 22 { Ok(Step::NeedMore) } else { Err(NotTls) });
    }
    assert_eq!(read(&[]), Ok(Step::NeedMore));
}

#[test]
fn size_is_bounded() {
    let head = message(Some(&[])).len() - 4 + 4;
    let most = message(Some(&extension(21, &vec![0; MOST_BYTES - head])));
    assert_eq!(most.len() - 4, MOST_BYTES);
    for size in [MOST_OF_A_RECORD, 1024, 100] {
        assert_eq!(read(&records(&most, size)), asks(None, &[]));
    }
    let more = message(Some(&extension(21, &vec![0; MOST_BYTES - head + 1])));
    assert_eq!(read(&records(&more, MOST_OF_A_RECORD)[..9]), Err(NotTls));
    // Cut so fine that the cuts are the most of it.
    let fine = records(&most, 1);
    assert_eq!(read(&fine[..MOST_OF_A_STREAM - 1]), Ok(Step::NeedMore));
    assert_eq!(read(&fine[..MOST_OF_A_STREAM]), Err(NotTls));
}

/// What rustls itself sends, with post-quantum keys.
#[test]
fn a_hello_of_today_is_read() {
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let to = "www.example.org".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config.into(), to).expect("a client");
    let mut sent = Vec::new();
    client.write_tls(&mut sent).expect("memory takes all");
    assert!(sent.len() > 1200, "{}: no post-quantum keys", sent.len());
    for cut in 0..sent.len() {
        assert_eq!(read(&sent[..cut]), Ok(Step::NeedMore), "cut at {cut}");
    }
    assert_eq!(read(&sent), asks(Some("www.example.org"), &[b"h2", b"http/1.1"]));
    sent.extend([20, 3, 3, 0, 1, 1]);
    assert_eq!(read(&sent), asks(Some("www.example.org"), &[b"h2", b"http/1.1"]));
}

proptest! {
    #[test]
    fn however_it_is_cut_it_is_read_in_one_way(
        size in 1_usize..400,
        padding in 0_usize..3000,
        host in "[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,3}[a-z]",
    ) {
        let extensions = [extension(21, &vec![0; padding]), name(host.as_bytes())].concat();
        let data = records(&message(Some(&extensions)), size);
        prop_assume!(data.len() < MOST_OF_A_STREAM);
        for cut in 0..data.len() {
            prop_assert_eq!(read(&data[..cut]), Ok(Step::NeedMore));
        }
        prop_assert_eq!(read(&data), asks(Some(&host), &[]));
    }

    /// Whatever it is: no panic, and what is settled stays settled, whatever follows.
    #[test]
    fn what_is_settled_stays(
        size in 1_usize..100,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let extensions = [name(b"a.example"), protocols(&[b"h2"])].concat();
        let mut data = records(&message(Some(&extensions)), size);
        for (at, byte) in &changes {
            let at = at.index(data.len());
            data[at] = *byte;
        }
        let mut settled = None;
        for cut in 0..=data.len() {
            let step = read(&data[..cut]);
            match &settled {
                Some(before) => prop_assert_eq!(&step, before),
                None if step == Ok(Step::NeedMore) => {}
                None => settled = Some(step),
            }
        }
    }
}
