//! nginx over TLS, as a backend that tells what it knows of the connection.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::{Authority, Backend, Child, Folder, PATIENCE, Pair, eventually, free_address};

/// nginx over TLS, which tells what it knows of the connection.
#[derive(Debug)]
pub struct Nginx {
    pub address: SocketAddr,
    _child: Child,
    _folder: Folder,
}

impl Nginx {
    /// `more`: directives of the server; `FOLDER` is where `ca.pem` is.
    #[track_caller]
    pub fn start(address: SocketAddr, pair: &Pair, ca: &Authority, more: &str) -> Nginx {
        Nginx::listening(address, "ssl", pair, ca, more)
    }

    /// It takes HTTP/2, too.
    #[track_caller]
    pub fn of_http2(address: SocketAddr, pair: &Pair, ca: &Authority, more: &str) -> Nginx {
        Nginx::listening(address, "ssl http2", pair, ca, more)
    }

    #[track_caller]
    fn listening(
        address: SocketAddr,
        kind: &str,
        pair: &Pair,
        ca: &Authority,
        more: &str,
    ) -> Nginx {
        let folder = Folder::new();
        pair.write(&folder, "server");
        folder.file("ca.pem", &ca.pem);
        let versions = match more.contains("ssl_protocols") {
            true => "",
            false => "ssl_protocols TLSv1.2 TLSv1.3;",
        };
        let text = format!(
            "daemon off; master_process off; pid FOLDER/pid; error_log FOLDER/error.log;
             events {{ worker_connections 200; }}
             http {{
                 access_log off; client_body_temp_path FOLDER/1; proxy_temp_path FOLDER/2;
                 fastcgi_temp_path FOLDER/3; uwsgi_temp_path FOLDER/4; scgi_temp_path FOLDER/5;
                 server {{
                     listen {address} {kind}; client_max_body_size 0;
                     ssl_certificate FOLDER/server.pem; ssl_certificate_key FOLDER/server.key;
                     add_header x-reused $ssl_session_reused; add_header x-version $ssl_protocol;
                     add_header x-name $ssl_server_name; add_header x-proved $ssl_client_verify;
                     add_header x-connection $connection; add_header x-alpn $ssl_alpn_protocol;
                     add_header x-requests $connection_requests;
                     {versions} {more}
                     location / {{ return 200 'hello'; }}
                 }}
             }}"
        );
        folder.file("nginx.conf", text.replace("FOLDER", &folder.path().to_string_lossy()));
        let mut command = Command::new("nginx");
        command.arg("-e").arg(folder.path().join("error.log"));
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        let child = Child::start("nginx", &mut command);
        eventually("nginx accepts", PATIENCE, || TcpStream::connect(address).is_ok());
        Nginx { address, _child: child, _folder: folder }
    }

    /// In front of a backend of the harness.
    #[track_caller]
    pub fn before(backend: &Backend, pair: &Pair, ca: &Authority) -> Nginx {
        let more = format!(
            "location /b/ {{
                 proxy_pass http://{backend}; proxy_http_version 1.1; proxy_buffering off;
                 proxy_request_buffering off; proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection $http_connection;
             }}"
        );
        Nginx::start(free_address(), pair, ca, &more)
    }
}
