//! Results in the formats of `etcdutl`: one line, JSON, fields, or a table.

use std::io::Write as _;

use super::{BAD_FEATURE, Failure};

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Simple,
    Json,
    Fields,
    Table,
    /// Known and never supported: these results are no messages of the API.
    Protobuf,
}

impl Format {
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "simple" => Ok(Self::Simple),
            "json" => Ok(Self::Json),
            "fields" => Ok(Self::Fields),
            "table" => Ok(Self::Table),
            "protobuf" => Ok(Self::Protobuf),
            _ => Err(Failure { code: BAD_FEATURE, text: "unsupported output format".into() }),
        }
    }
}

/// Up to which revision history is forgotten. Before the first compaction the number is one that
/// means none.
pub(super) fn compacted(revision: i64) -> String {
    if revision < 0 { "nothing".to_owned() } else { revision.to_string() }
}

/// One thing to be told.
pub(super) struct Field {
    /// Its name in JSON.
    pub(super) json: &'static str,
    /// Its name as a field.
    pub(super) field: &'static str,
    /// Its name above a column.
    pub(super) column: &'static str,
    pub(super) value: serde_json::Value,
    /// As people read it, where that differs.
    pub(super) shown: Option<String>,
}

impl Field {
    fn text(value: &serde_json::Value) -> String {
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    fn shown(&self) -> String {
        self.shown.clone().unwrap_or_else(|| Self::text(&self.value))
    }
}

/// Prints a result.
pub(super) fn result(format: Format, fields: &[Field]) -> Result<(), Failure> {
    let shown: Vec<String> = fields.iter().map(Field::shown).collect();
    let text = match format {
        Format::Simple => shown.join(", ") + "\n",
        Format::Json => {
            let pairs = fields.iter().map(|field| format!("\"{}\":{}", field.json, field.value));
            format!("{{{}}}\n", pairs.collect::<Vec<_>>().join(","))
        }
        Format::Fields => fields
            .iter()
            .map(|field| format!("\"{}\" : {}\n", field.field, Field::text(&field.value)))
            .collect(),
        Format::Table => table(fields, &shown),
        Format::Protobuf => {
            let text = "protobuf not supported as output format".into();
            return Err(Failure { code: BAD_FEATURE, text });
        }
    };
    line(text.trim_end())
}

/// Prints a line.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// A frame around a head, centred, and one row, aligned to the right.
fn table(fields: &[Field], shown: &[String]) -> String {
    let heads: Vec<String> = fields.iter().map(|field| field.column.to_uppercase()).collect();
    let length = |text: &String| text.chars().count();
    let widths: Vec<usize> =
        heads.iter().zip(shown).map(|(head, value)| length(head).max(length(value))).collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let cells: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", cells.join(middle))
    };
    let row = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let head = heads.iter().zip(&widths).map(|(head, width)| format!(" {head:^width$} "));
    let values = shown.iter().zip(&widths).map(|(value, width)| format!(" {value:>width$} "));
    [
        rule("┌", "┬", "┐"),
        row(head.collect()),
        rule("├", "┼", "┤"),
        row(values.collect()),
        rule("└", "┴", "┘"),
    ]
    .concat()
}

/// A number of bytes as people say it: powers of a thousand, two digits at least.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut unit, mut scale) = (0, 1_u64);
    while bytes / scale >= 1000 {
        scale *= 1000;
        unit += 1;
    }
    // Rounded half up, in tenths where there is one digit only.
    let tenths = (u128::from(bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
    if bytes < 10 {
        format!("{bytes} B")
    } else if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        let whole = (u128::from(bytes) + u128::from(scale) / 2) / u128::from(scale);
        format!("{whole} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_as_the_other_tools_say_them() {
        let said = [0, 9, 10, 999, 1000, 1234, 9949, 12_345, 20_480, 1_500_000, u64::MAX];
        assert_eq!(
            said.map(bytes),
            [
                "0 B", "9 B", "10 B", "999 B", "1.0 kB", "1.2 kB", "9.9 kB", "12 kB", "20 kB",
                "1.5 MB", "18 EB"
            ]
        );
    }

    /// As `etcdutl` 3.7.3 printed it.
    #[test]
    fn tables_are_framed() {
        let field = |column, value: &str| Field {
            json: "",
            field: "",
            column,
            value: value.into(),
            shown: None,
        };
        let fields = [
            field("hash", "aadf33e6"),
            field("revision", "7"),
            field("total keys", "3"),
            field("total size", "20 kB"),
            field("version", "3.7.0"),
        ];
        let shown: Vec<String> = fields.iter().map(Field::shown).collect();
        let expected = "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ aadf33e6 │        7 │          3 │      20 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
";
        assert_eq!(table(&fields, &shown), expected);
    }
}
