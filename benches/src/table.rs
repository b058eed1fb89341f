//! Ratios of what was measured, and how they are shown.

/// One budget and the rates that tell whether it holds. Rates that stand at the same place were measured in the same round.
pub struct Row {
    /// What is measured.
    pub what: String,
    /// What a rate counts.
    pub unit: &'static str,
    /// Ours, one a round.
    pub ours: Vec<f64>,
    /// What is possible: the slower one (by its median) is the limit.
    pub limits: Vec<(&'static str, Vec<f64>)>,
    /// The least part of the limit's rate, or multiple of it, that is good enough.
    pub budget: f64,
}

/// Prints what stands over the rows.
pub fn head() {
    line("what", "measured", "limit", ["ratio", "(least - most)", "budget"], "");
}

/// Prints a row.
pub fn print(row: &Row) {
    let mut limits: Vec<_> = row.limits.iter().map(|(name, rates)| (median(rates), name, rates)).collect();
    limits.sort_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, _, slowest)) = limits.first() else { return };
    let ratios: Vec<_> = row.ours.iter().zip(*slowest).map(|(ours, limit)| ours / limit).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let ratio = median(&ratios);
    let shown: Vec<_> = limits.iter().map(|(rate, name, _)| format!("{name} {rate:.0}")).collect();
    let numbers = [format!("{ratio:.2}"), format!("({least:.2} - {most:.2})"), format!(">= {}", row.budget)];
    line(
        &row.what,
        &format!("{:.0} {}", median(&row.ours), row.unit),
        &shown.join(", "),
        numbers.each_ref().map(String::as_str),
        if ratio >= row.budget { "holds" } else { "MISSES" },
    );
}

/// Prints what has one limit, and below it what else was measured beside, each with our ratio to it. Without a budget it is only shown.
pub fn print_beside(what: &str, unit: &str, ours: &[f64], others: &[(&str, Vec<f64>)], budget: Option<f64>) {
    for (n, (name, rates)) in others.iter().enumerate() {
        let ratios: Vec<_> = ours.iter().zip(rates).map(|(ours, other)| ours / other).collect();
        let ratio = median(&ratios);
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let budget = budget.filter(|_| n == 0);
        let numbers = [
            format!("{ratio:.2}"),
            format!("({least:.2} - {most:.2})"),
            budget.map_or_else(String::new, |budget| format!(">= {budget:.2}")),
        ];
        let (what, measured) = match n {
            0 => (what, format!("{:.0} {unit}", median(ours))),
            _ => ("", String::new()),
        };
        let verdict = match budget {
            None => "",
            Some(budget) if ratio >= budget => "holds",
            Some(_) => "MISSES",
        };
        let shown = format!("{name} {:.0}", median(rates));
        line(what, &measured, &shown, numbers.each_ref().map(String::as_str), verdict);
    }
}

/// Prints what has neither a limit nor a budget.
pub fn print_alone(what: &str, measured: &[f64], unit: &str) {
    let most = measured.iter().copied().fold(0.0, f64::max);
    let least = measured.iter().copied().fold(f64::INFINITY, f64::min);
    let range = format!("({least:.1} - {most:.1})");
    line(what, &format!("{:.1} {unit}", median(measured)), "", ["", &range, ""], "");
}

/// Prints what is to stay below a bound.
pub fn print_bound(what: &str, measured: &[f64], unit: &str, bound: f64) {
    let most = measured.iter().copied().fold(0.0, f64::max);
    let least = measured.iter().copied().fold(f64::INFINITY, f64::min);
    line(
        what,
        &format!("{:.0} {unit}", median(measured)),
        "",
        ["", &format!("({least:.0} - {most:.0})"), &format!("< {bound}")],
        if most < bound { "holds" } else { "MISSES" },
    );
}

fn line(what: &str, ours: &str, limit: &str, [ratio, range, budget]: [&str; 3], verdict: &str) {
    println!("{what:<42} {ours:>15}  {limit:<46} {ratio:>6} {range:>16} {budget:>7} {verdict}");
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    match &sorted[..] {
        [] => 0.0,
        sorted => (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0,
    }
}
