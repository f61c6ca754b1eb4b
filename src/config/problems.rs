//! What is wrong with a configuration file, for people, for a log line and for machines.
//!
//! A [`Problem`] is complete in itself: it carries the line of the file it speaks of, so that it
//! can be shown without the file. `source` makes them; this file only knows how they look.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// An error keeps the file from being used; a warning does not, unless `check --strict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub fn label(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One problem at one place. [`Display`](fmt::Display) is the one-line form; see [`render`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    pub file: String,
    /// Counts from 1.
    pub line: usize,
    /// Counts from 1, in characters.
    pub column: usize,
    /// The YAML path, such as `pools.web.backends[1].weight`; empty for the file as a whole.
    pub path: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// A "did you mean", or the line that would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line of the file, or the part of a very long one around the place.
    pub source: String,
    /// Where the caret goes under `source`: characters before it, and how many are marked.
    #[serde(skip)]
    pub caret: (usize, usize),
}

impl Problem {
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(found) = &self.found {
            write!(f, " (found `{found}`)")?;
        }
        Ok(())
    }
}

/// The long form, with the source line and a caret; ends with an empty line after each problem.
pub fn render(problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        // Writing to a String cannot fail.
        let _ = render_one(&mut out, problem);
    }
    out
}

fn render_one(out: &mut String, p: &Problem) -> fmt::Result {
    write!(out, "{}:{}:{}: {}: ", p.file, p.line, p.column, p.severity.label())?;
    if !p.path.is_empty() {
        write!(out, "{}: ", p.path)?;
    }
    writeln!(out, "{}", p.message)?;
    if !p.source.trim().is_empty() {
        let number = p.line.to_string();
        let (before, width) = p.caret;
        writeln!(out, "  {number} | {}", p.source)?;
        let marks = "^".repeat(width.max(1));
        writeln!(out, "  {:>1$} | {2:3$}{marks}", "", number.len(), "", before)?;
    }
    if let Some(found) = &p.found {
        let found = if found.is_empty() { "an empty text" } else { found };
        writeln!(out, "  found:   {found}")?;
    }
    if let Some(allowed) = &p.allowed {
        writeln!(out, "  allowed: {allowed}")?;
    }
    if let Some(help) = &p.help {
        writeln!(out, "  help:    {help}")?;
    }
    writeln!(out)
}

/// One line for a log: the first error, and how many more there are.
pub fn one_line(problems: &[Problem]) -> String {
    let mut errors = problems.iter().filter(|problem| problem.is_error());
    match (errors.next(), errors.count()) {
        (None, _) => "no problem".to_owned(),
        (Some(first), 0) => first.to_string(),
        (Some(first), more) => format!("{first} (and {more} more)"),
    }
}

/// The candidate that `word` is most likely a slip of the pen for.
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Longer than any key or name: not a slip, and the distance would be costly.
    if word.len() > 80 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let plain = candidate.to_ascii_lowercase().replace('-', "_");
            (strsim::damerau_levenshtein(&word, &plain), plain.len(), candidate)
        })
        .filter(|(distance, len, _)| *distance <= (len.max(&word.len()) / 3).max(1))
        .filter(|(distance, len, _)| distance < len)
        .min_by_key(|(distance, ..)| *distance)
        .map(|(.., candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str, severity: Severity) -> Problem {
        Problem {
            severity,
            file: "web.yaml".into(),
            line: 12,
            column: 5,
            path: "pools.web".into(),
            message: message.into(),
            found: Some("5".into()),
            allowed: Some("a duration".into()),
            help: Some("write 5s".into()),
            source: "    timeout: 5".into(),
            caret: (13, 1),
        }
    }

    #[test]
    fn the_long_form_points_at_the_place() {
        let text = render(&[problem("no unit", Severity::Error)]);
        assert_eq!(
            text,
            "web.yaml:12:5: error: pools.web: no unit\n  12 |     timeout: 5\n     |              ^\n  \
             found:   5\n  allowed: a duration\n  help:    write 5s\n\n"
        );
    }

    #[test]
    fn one_line_names_the_first_error_and_counts_the_rest() {
        let all = [
            problem("w", Severity::Warning),
            problem("a", Severity::Error),
            problem("b", Severity::Error),
        ];
        assert_eq!(one_line(&all), "web.yaml:12:5: pools.web: a (found `5`) (and 1 more)");
        assert_eq!(one_line(&all[..1]), "no problem");
    }

    #[test]
    fn suggestions_are_near_or_absent() {
        let keys = ["backends", "balance", "health_check", "timeouts"];
        for (word, expected) in [
            ("backend", Some("backends")),
            ("health-check", Some("health_check")),
            ("healthcheck", Some("health_check")),
            ("Timeouts", Some("timeouts")),
            ("balnace", Some("balance")),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(did_you_mean(word, keys), expected, "{word}");
        }
    }
}
