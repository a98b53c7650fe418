//! A run as tables (Markdown) and as a file of all its figures.

use std::fmt::Write;

use super::Report;
use super::census::Census;
use super::figures::{After, COUNTED, FIGURES, Sample, Unit};
use super::judge::Verdict;

/// All tables.
pub fn tables(report: &Report) -> String {
    let mut text = String::new();
    pairs(&mut text, "Many pods at once", &report.burst);
    let plan = &report.plan;
    let took = report.samples.last().map_or(f64::NAN, |last| last.at);
    let title = format!("{} pods with {} alive, in {took:.0} s", plan.pods, plan.alive);
    growth(&mut text, &title, &report.verdicts);
    asked(&mut text, &report.asked);
    pairs(&mut text, "The daemon killed", &report.kills);
    ends(&mut text, &report.ends);
    if !report.complaints.is_empty() {
        let _ = writeln!(text, "\n**What went wrong**\n\n- {}", report.complaints.join("\n- "));
    }
    text
}

fn pairs(text: &mut String, title: &str, rows: &[(String, f64)]) {
    let _ = writeln!(text, "\n| {title} | |\n|---|---:|");
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {} |", number(*value));
    }
}

fn growth(text: &mut String, title: &str, verdicts: &[Verdict]) {
    let _ = writeln!(
        text,
        "\n| {title} | after the warm-up | at the end | slope, 1,000 pods | growth by it | allowed | |\n\
         |---|---:|---:|---:|---:|---:|---|"
    );
    for verdict in verdicts {
        let said = if verdict.is_well() { "flat" } else { "**grows**" };
        let most = if verdict.most.is_finite() {
            shown(verdict.figure.unit, verdict.most)
        } else {
            "not judged".into()
        };
        let unit = |value| shown(verdict.figure.unit, value);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {most} | {said} |",
            verdict.figure.name,
            unit(verdict.ends[0]),
            unit(verdict.ends[1]),
            unit(verdict.slope),
            unit(verdict.grown),
        );
    }
}

fn asked(text: &mut String, rows: &[(&str, u64)]) {
    let _ = writeln!(text, "\n| Answered in the whole run | |\n|---|---:|");
    for (name, count) in rows {
        let _ = writeln!(text, "| {name} | {} |", number(*count as f64));
    }
}

fn ends(text: &mut String, [before, after]: &[Census; 2]) {
    let _ = writeln!(text, "\n| With no pod | before the first phase | after the last |\n|---|---:|---:|");
    for (figure, (before, after)) in FIGURES[..COUNTED].iter().zip(before.values.iter().zip(after.values)) {
        if figure.after == After::AsBefore || before.is_finite() {
            let (before, after) = (shown(figure.unit, *before), shown(figure.unit, after));
            let _ = writeln!(text, "| {} | {before} | {after} |", figure.name);
        }
    }
}

/// A value with its unit.
fn shown(unit: Unit, value: f64) -> String {
    match unit {
        _ if value.is_nan() => "–".into(),
        Unit::Count => number(value),
        Unit::KiB if value.abs() >= 10_240.0 => format!("{:.1} MiB", value / 1024.0),
        Unit::KiB => format!("{} KiB", number(value)),
        Unit::Time => format!("{} ms", number(value)),
    }
}

/// Three digits at least, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.*}", if value.abs() < 10.0 { 2 } else { 1 });
    }
    let whole = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// All samples, comma-separated, with a heading.
pub fn csv(samples: &[Sample]) -> String {
    let names: Vec<String> = FIGURES.iter().map(|figure| format!("\"{}\"", figure.name)).collect();
    let mut text = format!("seconds,pods made,{}\n", names.join(","));
    for Sample { at, made, values } in samples {
        let values: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
        let _ = writeln!(text, "{at:.1},{made},{}", values.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_thousands_apart() {
        let shown = [0.0, 0.123, 12.34, 123.4, 1234.0, 1_234_567.0, -4321.0].map(number);
        assert_eq!(shown, ["0", "0.12", "12.3", "123", "1,234", "1,234,567", "-4,321"]);
    }
}
