//! Reads the text that `/metrics` gives.

/// The sum of a metric's samples that have all of these labels; 0 if there is none.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let of_name = samples.filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (has, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let wanted = |(key, value): &(&str, &str)| {
            has.split("\",").any(|pair| pair.trim_end_matches('"') == format!("{key}=\"{value}"))
        };
        labels.iter().all(wanted).then(|| value.trim().parse::<f64>().unwrap_or(f64::NAN))
    });
    of_name.sum()
}

#[test]
fn samples_are_found_by_name_and_labels() {
    let text =
        "# HELP a_total x\na_total{k=\"v\",l=\"w\"} 2\na_total{k=\"v2\"} 3\na_totals 9\nb 1\n";
    assert_eq!(sum(text, "a_total", &[]), 5.0);
    assert_eq!(sum(text, "a_total", &[("k", "v")]), 2.0);
    assert_eq!(sum(text, "a_total", &[("l", "w"), ("k", "v")]), 2.0);
    assert_eq!(sum(text, "a_total", &[("k", "w")]), 0.0);
    assert_eq!(sum(text, "b", &[]), 1.0);
}
