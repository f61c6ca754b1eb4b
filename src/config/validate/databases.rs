//! The probes that ask a database for its role: PostgreSQL, Redis, MySQL.

use super::cx::Cx;
use super::secret;
use super::words::word;
use crate::config::model::{
    MysqlProbe, MysqlRole, PostgresProbe, PostgresRole, RedisProbe, RedisRole, Secret,
};
use crate::config::path::Path;
use crate::config::raw::{DatabaseProbe, Text};
use crate::config::source::Wrong;

/// The database that every server has, whoever logs in.
const DATABASE: &str = "postgres";

pub fn postgres(cx: &mut Cx<'_>, at: &Path, raw: DatabaseProbe) -> Option<PostgresProbe> {
    cx.missing(at, "user", "postgres: {user: monitor, role: primary}");
    let near = ["master", "leader", "writable", "standby", "read_only"];
    let role = role(cx, at, &raw, &PostgresRole::WORDS, near);
    let user = cx.text(&at.key("user"), raw.user.as_ref(), login_name);
    let database = cx.text(&at.key("database"), raw.database.as_ref(), login_name);
    let password = secret::read(cx, &at.key("password_file"), raw.password_file.as_ref());
    Some(PostgresProbe {
        user: user?,
        database: database.unwrap_or_else(|| DATABASE.to_owned()),
        password,
        role: role.unwrap_or(PostgresRole::Any),
    })
}

pub fn redis(cx: &mut Cx<'_>, at: &Path, raw: DatabaseProbe) -> Option<RedisProbe> {
    let near = ["primary", "leader", "writable", "slave", "read_only"];
    let role = role(cx, at, &raw, &RedisRole::WORDS, near).unwrap_or(RedisRole::Any);
    let (user, password) = credentials(cx, at, &raw)?;
    Some(RedisProbe { user, password, role })
}

pub fn mysql(cx: &mut Cx<'_>, at: &Path, raw: DatabaseProbe) -> Option<MysqlProbe> {
    let near = ["primary", "master", "writeable", "replica", "readonly"];
    let role = role(cx, at, &raw, &MysqlRole::WORDS, near).unwrap_or(MysqlRole::Any);
    let key = at.key("user");
    if raw.user.is_none()
        && !cx.has(&key)
        && (role != MysqlRole::Any || raw.password_file.is_some())
    {
        let wrong = Wrong::plain("only who logs in can ask for `read_only`: `user` is missing");
        cx.error(at, None, wrong.help("for example: mysql: {user: monitor, role: writable}"));
    }
    let (user, password) = credentials(cx, at, &raw)?;
    Some(MysqlProbe { user, password, role })
}

/// `None` if one of them is there but wrong; then it was reported.
fn credentials(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: &DatabaseProbe,
) -> Option<(Option<String>, Option<Secret>)> {
    let read = |given: &Text, wrong: bool| given.is_none() || !wrong;
    let user = cx.text(&at.key("user"), raw.user.as_ref(), login_name);
    let password = secret::read(cx, &at.key("password_file"), raw.password_file.as_ref());
    let whole = read(&raw.user, user.is_none()) && read(&raw.password_file, password.is_none());
    whole.then_some((user, password))
}

/// `near` are the words that other databases have for the roles: of the one that is written to, and of
/// those that follow it.
fn role<T: Copy>(
    cx: &mut Cx<'_>,
    at: &Path,
    raw: &DatabaseProbe,
    words: &[(&str, T); 3],
    near: [&str; 5],
) -> Option<T> {
    cx.text(&at.key("role"), raw.role.as_ref(), |text| {
        word(text, words).map_err(|wrong| {
            let meant = near.iter().position(|near| *near == text);
            let meant = meant.map(|place| words[usize::from(place > 2)].0);
            wrong.help_if(meant.map(|meant| format!("did you mean `{meant}`?")))
        })
    })
}

/// A user or a database.
fn login_name(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return Err(Wrong::new(
            "not a name to log in with",
            "1 to 128 bytes, no control characters",
        ));
    }
    Ok(text.to_owned())
}
