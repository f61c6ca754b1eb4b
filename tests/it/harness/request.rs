//! A request as a test writes it: `Ask::post("/x").header("x-id", "7").body("...")`.

/// What is sent, byte by byte: nothing is added but `Host`, and `Content-Length` for a body.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Ask {
        let headers = vec![("Host".to_owned(), "test.example".to_owned())];
        Ask { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() }
    }

    pub fn get(target: &str) -> Ask {
        Ask::new("GET", target)
    }

    pub fn post(target: &str) -> Ask {
        Ask::new("POST", target)
    }

    /// In place of `test.example`.
    pub fn host(mut self, host: &str) -> Ask {
        self.headers[0].1 = host.to_owned();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the backend shall do with this very request; see `backend`.
    pub fn act(self, act: &str) -> Ask {
        self.header("x-do", act)
    }

    /// Sent with a `Content-Length`.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Ask {
        self.body = body.as_ref().to_vec();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        [text.as_bytes(), &self.body].concat()
    }
}
