//! A configuration file, put together in one expression: `setup().http("web", "web").pool(...)`.

use std::fmt::{Display, Write};

/// Listeners are on a port of the kernel's choice, as is the admin server; the log is JSON.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    top: String,
    listeners: String,
    pools: String,
}

pub fn setup() -> Setup {
    Setup::default()
}

impl Setup {
    /// Lines at the file's top level, such as `drain_timeout: 2s`.
    pub fn set(mut self, lines: &str) -> Setup {
        self.top += lines;
        self.top.push('\n');
        self
    }

    /// An HTTP listener with a single route to a pool.
    pub fn http(self, name: &str, pool: &str) -> Setup {
        self.listener(name, &format!("mode: http, routes: [{{pool: {pool}}}]"))
    }

    /// A TCP listener.
    pub fn tcp(self, name: &str, pool: &str) -> Setup {
        self.listener(name, &format!("mode: tcp, pool: {pool}"))
    }

    /// A listener with the given keys (YAML in one line); without `bind` it gets a port of its own.
    pub fn listener(mut self, name: &str, keys: &str) -> Setup {
        let bind = match keys.contains("bind:") {
            true => String::new(),
            false => format!("bind: \"{}:0\", ", super::address::own_ip()),
        };
        // Writing to a String does not fail.
        writeln!(self.listeners, "  {name}: {{{bind}{keys}}}").unwrap();
        self
    }

    /// A pool with these keys (YAML in one line), its backends among them.
    pub fn pool_of(mut self, name: &str, keys: &str) -> Setup {
        // Writing to a String does not fail.
        writeln!(self.pools, "  {name}: {{{keys}}}").unwrap();
        self
    }

    /// A pool of these backends, with further keys (YAML in one line, may be empty).
    pub fn pool<B: Display>(
        mut self,
        name: &str,
        backends: impl IntoIterator<Item = B>,
        keys: &str,
    ) -> Setup {
        let list: Vec<String> = backends.into_iter().map(|b| format!("\"{b}\"")).collect();
        let keys = if keys.is_empty() { String::new() } else { format!(", {keys}") };
        // Writing to a String does not fail.
        writeln!(self.pools, "  {name}: {{backends: [{}]{keys}}}", list.join(", ")).unwrap();
        self
    }
}

impl Display for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has = |key: &str| self.top.lines().any(|line| line.starts_with(key));
        if !has("admin:") {
            writeln!(f, "admin: {{listen: \"127.0.0.1:0\"}}")?;
        }
        if !has("log:") {
            writeln!(f, "log: {{format: json}}")?;
        }
        write!(f, "{}", self.top)?;
        write!(f, "listeners:\n{}pools:\n{}", self.listeners, self.pools)
    }
}
