//! Text of strangers, made fit for a log or a report: nothing in it moves a cursor or breaks a line.

/// What is shown of a character.
pub fn printable(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => ' ',
        // Direction marks and the like could make a line read as another one.
        '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => '?',
        c if c.is_control() => '?',
        c => c,
    }
}
