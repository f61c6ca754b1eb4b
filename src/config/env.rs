//! `${NAME}` and `${NAME:-fallback}` in a value, filled in from the environment.
//!
//! Works on one value at a time, after the YAML was read: whatever a variable holds, it can only
//! ever be the text of that one value. `$${` stands for `${` itself.

use super::source::Wrong;

/// What the process's environment says of a name.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

const FORMS: &str = "${NAME} or ${NAME:-fallback}; $${ for the characters ${ themselves";

/// As in a shell, the fallback counts where the variable is unset or empty.
pub fn fill(text: &str, env: Env<'_>) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let body = &rest[start + 2..];
        let Some(end) = body.find('}') else {
            return Err(Wrong::new("a `${` without its `}`", FORMS));
        };
        out.push_str(&variable(&body[..end], env)?);
        rest = &body[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(inner: &str, env: Env<'_>) -> Result<String, Wrong> {
    let (name, fallback) = match inner.split_once(":-") {
        Some((name, fallback)) => (name, Some(fallback)),
        None => (inner, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(Wrong::new(format!("`${{{inner}}}` does not name a variable"), FORMS));
    }
    match (env(name), fallback) {
        (Some(value), Some(fallback)) if value.is_empty() => Ok(fallback.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(fallback)) => Ok(fallback.to_owned()),
        (None, None) => Err(Wrong::plain(format!("the environment variable {name} is not set"))
            .help(format!("set {name}, or give a fallback: ${{{name}:-...}}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_filled_in() {
        let env = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${A}\n- b: {".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("plain", Some("plain")),
            ("${A}", Some("1")),
            ("x${A}y${A}", Some("x1y1")),
            ("${NO:-80}", Some("80")),
            ("${NO:-}", Some("")),
            ("${EMPTY:-7}", Some("7")),
            ("${EMPTY}", Some("")),
            ("${NO:-[::]:80}", Some("[::]:80")),
            ("$${A}", Some("${A}")),
            ("$1 $ {A}", Some("$1 $ {A}")),
            ("${TRICK}", Some("${A}\n- b: {")),
            ("${NO}", None),
            ("${A", None),
            ("${}", None),
            ("${1A}", None),
            ("${A B}", None),
        ] {
            assert_eq!(fill(text, &env).ok().as_deref(), expected, "{text}");
        }
    }
}
