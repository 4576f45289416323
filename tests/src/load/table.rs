//! Figures, their medians over rounds, and the tables in Markdown.

use std::fmt::Write as _;

use super::contest::Who;
use super::drive::Tally;

/// What one run of one job gave.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Things done per second.
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Milliseconds.
    pub longest: f64,
    /// Microseconds of the server's CPU for each thing done.
    pub cpu: f64,
    /// Bytes written to disk for each thing done.
    pub written: f64,
    /// Bytes of memory held at the end.
    pub resident: f64,
    /// The most bytes of memory held so far.
    pub peak: f64,
    /// Anything a reader should know.
    pub note: String,
}

impl Figures {
    /// Rate and latencies of a tally.
    pub fn of(tally: &Tally) -> Self {
        let at = |quantile| tally.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let timed = !tally.latency.is_empty();
        Self {
            rate: tally.units as f64 / tally.time.as_secs_f64(),
            p50: if timed { at(0.5) } else { 0.0 },
            p99: if timed { at(0.99) } else { 0.0 },
            longest: tally.latency.max() as f64 / 1000.0,
            ..Self::default()
        }
    }

    /// Medians of each, and the longest of all.
    fn median(rounds: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            match values.len() % 2 {
                1 => values[middle],
                _ => f64::midpoint(values[middle - 1], values[middle]),
            }
        };
        Self {
            rate: median(|f| f.rate),
            p50: median(|f| f.p50),
            p99: median(|f| f.p99),
            longest: rounds.iter().map(|f| f.longest).fold(0.0, f64::max),
            cpu: median(|f| f.cpu),
            written: median(|f| f.written),
            resident: median(|f| f.resident),
            peak: rounds.iter().map(|f| f.peak).fold(0.0, f64::max),
            note: rounds.last().map(|f| f.note.clone()).unwrap_or_default(),
        }
    }
}

/// The head of [`Table::figures`].
pub const HEAD: &str = "| job | server | per second | p50 ms | p99 ms | longest ms | \
    server CPU µs each | written B each | resident MiB | peak MiB | |\n\
    |---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";

/// All results of a run, in the order of the jobs.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    job: String,
    who: Who,
    rounds: Vec<Figures>,
    /// Why there are no figures.
    failed: Option<String>,
}

impl Table {
    /// Takes one round's figures in.
    pub fn add(&mut self, job: &str, who: Who, outcome: Result<Figures, String>) {
        let row = self.rows.iter_mut().position(|row| row.job == job && row.who == who);
        let row = row.unwrap_or_else(|| {
            let row = Row { job: job.to_owned(), who, rounds: Vec::new(), failed: None };
            self.rows.push(row);
            self.rows.len() - 1
        });
        match outcome {
            Ok(figures) => self.rows[row].rounds.push(figures),
            Err(why) => self.rows[row].failed = Some(why),
        }
    }

    /// Every figure, one line for each job and contestant.
    pub fn figures(&self) -> String {
        let mut text = HEAD.to_owned();
        for row in self.by_job() {
            text.push_str(&row.line());
            text.push('\n');
        }
        text
    }

    /// Ours against the others, one line for each job that both have done.
    pub fn ratios(&self) -> String {
        let mut text = String::from(
            "| job | rate ÷ etcd | rate ÷ limit | p50 ÷ etcd | p99 ÷ etcd | longest ÷ etcd | \
             CPU ÷ etcd | written ÷ etcd | resident ÷ etcd |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for job in self.jobs() {
            let find = |who| self.rows.iter().find(|row| row.job == job && row.who == who);
            let of = |who| find(who).filter(|row| !row.rounds.is_empty());
            let of = |who| of(who).map(|row| Figures::median(&row.rounds));
            let (Some(ours), Some(etcd)) = (of(Who::Ours), of(Who::Etcd)) else { continue };
            let limit = of(Who::Limit);
            let against = |a: f64, b: f64| match b > 0.0 && a > 0.0 {
                true => format!("{:.2}", a / b),
                false => "–".to_owned(),
            };
            let cells = [
                against(ours.rate, etcd.rate),
                limit.map_or_else(|| "–".to_owned(), |limit| against(ours.rate, limit.rate)),
                against(ours.p50, etcd.p50),
                against(ours.p99, etcd.p99),
                against(ours.longest, etcd.longest),
                against(ours.cpu, etcd.cpu),
                against(ours.written, etcd.written),
                against(ours.resident, etcd.resident),
            ];
            writeln!(text, "| {job} | {} |", cells.join(" | ")).expect("text grows");
        }
        text
    }

    fn jobs(&self) -> Vec<&str> {
        let mut jobs: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !jobs.contains(&row.job.as_str()) {
                jobs.push(&row.job);
            }
        }
        jobs
    }

    fn by_job(&self) -> impl Iterator<Item = &Row> {
        let of = |job| self.rows.iter().filter(move |row| row.job == job);
        self.jobs().into_iter().flat_map(of).collect::<Vec<_>>().into_iter()
    }
}

impl Row {
    fn line(&self) -> String {
        match &self.failed {
            Some(why) if self.rounds.is_empty() => line(&self.job, self.who.name(), Err(why)),
            _ => line(&self.job, self.who.name(), Ok(&Figures::median(&self.rounds))),
        }
    }
}

/// One line of [`Table::figures`].
pub fn line(job: &str, who: &str, outcome: Result<&Figures, &String>) -> String {
    let figures = match outcome {
        Err(why) => return format!("| {job} | {who} | | | | | | | | | {why} |"),
        Ok(figures) => figures,
    };
    let mib = |bytes: &f64| whole(&(bytes / f64::from(1 << 20)));
    let Figures { rate, p50, p99, longest, cpu, written, resident, peak, note } = figures;
    format!(
        "| {job} | {who} | {} | {} | {} | {} | {} | {} | {} | {} | {note} |",
        whole(rate),
        fine(p50),
        fine(p99),
        fine(longest),
        fine(cpu),
        whole(written),
        mib(resident),
        mib(peak),
    )
}

fn whole(value: &f64) -> String {
    if *value > 0.0 { format!("{value:.0}") } else { "–".to_owned() }
}

/// Three digits or so.
fn fine(value: &f64) -> String {
    match *value {
        v if v <= 0.0 => "–".to_owned(),
        v if v < 1.0 => format!("{v:.3}"),
        v if v < 100.0 => format!("{v:.2}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    //! Medians and ratios on figures that were made up.

    use super::*;

    fn figures(rate: f64, longest: f64) -> Figures {
        Figures { rate, longest, cpu: 10.0, ..Figures::default() }
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut table = Table::default();
        for (ours, etcd) in [(10.0, 5.0), (1000.0, 1.0), (20.0, 4.0)] {
            table.add("put", Who::Ours, Ok(figures(ours, 1.0)));
            table.add("put", Who::Etcd, Ok(figures(etcd, 9.0)));
        }
        table.add("put", Who::Limit, Ok(figures(40.0, 1.0)));
        assert!(table.ratios().contains("| put | 5.00 | 0.50 | – | – | 0.11 | 1.00 | – | – |"));
    }

    #[test]
    fn what_is_not_built_is_said() {
        let mut table = Table::default();
        table.add("snapshot", Who::Ours, Err("not built: later".to_owned()));
        table.add("snapshot", Who::Etcd, Ok(figures(5.0, 1.0)));
        assert!(table.figures().contains("| snapshot | ours | | | | | | | | | not built: later |"));
        assert!(!table.ratios().contains("snapshot"), "there is nothing to divide");
    }
}
