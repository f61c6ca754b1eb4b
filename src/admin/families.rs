//! Rows of one metric, built into the `prometheus` crate's own form and encoded as text.
//!
//! Knows nothing of where values come from: `collector` brings them, in the order of the labels
//! that `observe::metrics` gives.

use prometheus::TextEncoder;
use prometheus::proto;

use crate::observe::cells::{BUCKETS_MICROS, Histogram};
use crate::observe::metrics::{Kind, Metric};

/// The rows of one metric, as they are gathered.
#[derive(Debug)]
pub(super) struct Rows<'m> {
    metric: &'m Metric,
    rows: Vec<proto::Metric>,
}

impl<'m> Rows<'m> {
    pub(super) fn new(metric: &'m Metric) -> Rows<'m> {
        Rows { metric, rows: Vec::new() }
    }

    /// One row; `labels` in the order of the metric's.
    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        let mut row = self.labelled(labels);
        match self.metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                row.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                row.set_gauge(gauge);
            }
        }
        self.rows.push(row);
    }

    pub(super) fn count(&mut self, labels: &[&str], value: u64) {
        self.add(labels, value as f64);
    }

    /// One row of a histogram: the sum of `parts`.
    pub(super) fn times<'h>(
        &mut self,
        labels: &[&str],
        parts: impl Iterator<Item = &'h Histogram>,
    ) {
        let mut slots = [0; BUCKETS_MICROS.len() + 1];
        let sum_micros: u64 = parts.map(|part| part.add_to(&mut slots)).sum();
        let mut total = 0;
        let mut buckets = Vec::with_capacity(BUCKETS_MICROS.len());
        for (bound, slot) in BUCKETS_MICROS.iter().zip(slots) {
            total += slot;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e6);
            bucket.set_cumulative_count(total);
            buckets.push(bucket);
        }
        total += slots[BUCKETS_MICROS.len()];
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(total);
        histogram.set_sample_sum(sum_micros as f64 / 1e6);
        histogram.set_bucket(buckets);
        let mut row = self.labelled(labels);
        row.set_histogram(histogram);
        self.rows.push(row);
    }

    fn labelled(&self, values: &[&str]) -> proto::Metric {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "{}", self.metric.name);
        let pairs = self.metric.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        proto::Metric::from_label(pairs.collect())
    }

    /// Appends the rows as text, with the family's header if it is to be `headed`; nothing, and
    /// false, if there are no rows.
    pub(super) fn encode(self, headed: bool, text: &mut String) -> bool {
        if self.rows.is_empty() {
            return false;
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_field_type(match self.metric.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        if headed {
            family.set_help(self.metric.help.to_owned());
        }
        family.set_metric(self.rows);
        let begin = text.len();
        if let Err(error) = TextEncoder::new().encode_utf8(&[family], text) {
            // The encoder refuses only a family without a name or rows; neither gets here.
            tracing::error!(metric = self.metric.name, %error, "a metric could not be encoded");
        }
        if !headed {
            // The encoder has a header for each call: without help it is the TYPE line alone.
            let header = text[begin..].find('\n').map_or(text.len(), |end| begin + end + 1);
            text.replace_range(begin..header, "");
        }
        true
    }
}
