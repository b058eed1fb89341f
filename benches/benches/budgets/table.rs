//! Ratios of what was measured, and how they are shown.

/// One budget and the rates that tell whether it holds. Rates that stand at the same place were measured in the same round.
pub(crate) struct Row {
    /// What is measured.
    pub(crate) what: String,
    /// What a rate counts.
    pub(crate) unit: &'static str,
    /// Ours, one a round.
    pub(crate) ours: Vec<f64>,
    /// What is possible: the slower one (by its median) is the limit.
    pub(crate) limits: Vec<(&'static str, Vec<f64>)>,
    /// The least part of the limit's rate, or multiple of it, that is good enough.
    pub(crate) budget: f64,
}

/// Prints the table.
pub(crate) fn print(rows: &[Row]) {
    println!();
    let head = ["what", "measured", "limit", "ratio", "(least - most)", "budget"];
    let [what, ours, limit, ratio, range, budget] = head;
    println!("{what:<42} {ours:>16}  {limit:<48} {ratio:>6} {range:>16} {budget:>7}");
    for row in rows {
        let mut limits: Vec<_> = row.limits.iter().map(|(name, rates)| (median(rates), name, rates)).collect();
        limits.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [(_, _, slowest), ..] = &limits[..] else { continue };
        let ratios: Vec<_> = row.ours.iter().zip(*slowest).map(|(ours, limit)| ours / limit).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        let ratio = median(&ratios);
        let shown: Vec<_> = limits.iter().map(|(rate, name, _)| format!("{name} {rate:.0}")).collect();
        let ours = format!("{:.0} {}", median(&row.ours), row.unit);
        let verdict = if ratio >= row.budget { "holds" } else { "MISSES" };
        println!(
            "{:<42} {ours:>16}  {:<48} {ratio:>6.2} {:>16} {:>7} {verdict}",
            row.what,
            shown.join(", "),
            format!("({least:.2} - {most:.2})"),
            format!(">= {}", row.budget),
        );
    }
    println!(
        "\nRates are medians of the rounds, ratios medians of the rounds' ratios; the first limit named is the one that counts."
    );
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
