//! A child process: its output line by line, signals by its pid, and its end with its handle.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Hangup,
    Interrupt,
    Terminate,
    Stop,
    Continue,
}

#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    output: Arc<Output>,
    status: Option<ExitStatus>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { break };
                output.lines().push(String::from_utf8_lossy(&line).into_owned());
                output.more.notify_all();
            }
            output.more.notify_all();
        });
    }
}

impl Child {
    /// Starts it; its standard output and error are read, its standard input is a pipe.
    pub fn start(name: &str, command: &mut Command) -> Child {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process =
            command.spawn().unwrap_or_else(|why| panic!("cannot start {name}: {why}"));
        let output = Arc::new(Output::default());
        output.follow(process.stdout.take().expect("it is piped"));
        output.follow(process.stderr.take().expect("it is piped"));
        Child { name: name.to_owned(), process, output, status: None }
    }

    pub fn stdin(&mut self) -> &mut std::process::ChildStdin {
        self.process.stdin.as_mut().expect("it is piped")
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has written so far.
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().clone()
    }

    /// Waits for a line for which `read` finds something; lines before number `from` do not count.
    #[track_caller]
    pub fn wait_line<T>(
        &mut self,
        from: usize,
        within: Duration,
        mut read: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let end = Instant::now() + within;
        let mut next = from;
        loop {
            let mut lines = self.output.lines();
            if next >= lines.len() {
                let turn = Duration::from_millis(50);
                let waited = self.output.more.wait_timeout(lines, turn);
                lines = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            while let Some(line) = lines.get(next) {
                next += 1;
                if let Some(found) = read(line) {
                    return found;
                }
            }
            drop(lines);
            let gone = self.has_exited();
            let ended = gone.is_some() && next >= self.output.lines().len();
            if ended || Instant::now() > end {
                let why = if ended { "it ended" } else { "in time" };
                panic!("{} did not write what was waited for: {why}", self.name);
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Hangup => libc::SIGHUP,
            Signal::Interrupt => libc::SIGINT,
            Signal::Terminate => libc::SIGTERM,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        assert!(self.status.is_none(), "{} has ended already", self.name);
        // SAFETY: a plain system call without pointers. The pid is a child's that was not waited for
        // (no status yet), so it cannot be anybody else's.
        unsafe { libc::kill(self.process.id() as libc::pid_t, number) };
    }

    /// Its exit status, if it has ended.
    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.process.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    #[track_caller]
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        super::eventually(&what, within, || self.has_exited().is_some());
        self.status.expect("it has just been seen")
    }

    /// SIGKILL, and its end is waited for.
    pub fn kill(&mut self) {
        if self.has_exited().is_none() {
            // It may end by itself in between.
            let _ = self.process.kill();
            self.status = self.process.wait().ok();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.output.lines();
            eprintln!("---- {}, {} lines", self.name, lines.len());
            for line in lines.iter().rev().take(200).rev() {
                eprintln!("     {line}");
            }
        }
    }
}
