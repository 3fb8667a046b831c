//! The boots as a chart: one bar a monitor, one piece a clock.

use std::fmt::Write;

use super::CLOCKS;
use crate::figures::Figures;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 140.0;
const ROW: f64 = 34.0;
const TOP: f64 = 60.0;

/// What each piece ends with, and its colour.
const COLOURS: [&str; CLOCKS.len()] = [
    "#94a3b8", "#64748b", "#2563eb", "#0d9488", "#84cc16", "#f59e0b",
];

/// Draws `figures` as SVG.
pub(super) fn svg(figures: &Figures) -> String {
    let medians = figures.series.iter().map(|series| {
        let clocks = CLOCKS.map(|clock| series.summary(clock).map(|summary| summary.median));
        (series.name.as_str(), clocks)
    });
    let rows: Vec<_> = medians.collect();
    let ends = rows
        .iter()
        .filter_map(|(_, clocks)| clocks.last().copied()?);
    let longest = ends.fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - 80.0) / longest;
    let mut height = TOP;
    let mut bars = String::new();
    for (name, clocks) in &rows {
        let middle = height + ROW * 0.6;
        text(&mut bars, (LEFT - 8.0, middle), "end", name);
        let mut from = 0.0;
        for (at, (clock, colour)) in clocks.iter().zip(CLOCKS.iter().zip(COLOURS)) {
            let Some(at) = at.filter(|at| *at >= from) else {
                continue;
            };
            let (x, width) = (LEFT + from * scale, (at - from) * scale);
            let _ = writeln!(
                bars,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                 fill=\"{colour}\"><title>{name}, to {clock}: {:.1} ms, at {at:.1} ms</title></rect>",
                height + 4.0,
                ROW - 8.0,
                at - from
            );
            from = at;
        }
        let label = format!("{from:.0} ms");
        text(
            &mut bars,
            (LEFT + from * scale + 6.0, middle),
            "start",
            &label,
        );
        height += ROW;
    }
    let mut legend = String::new();
    let mut x = LEFT;
    for (clock, colour) in CLOCKS.iter().zip(COLOURS) {
        let _ = writeln!(
            legend,
            "<rect x=\"{x:.1}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{colour}\"/>"
        );
        text(
            &mut legend,
            (x + 16.0, 46.0),
            "start",
            &format!("to {clock}"),
        );
        x += 125.0;
    }
    let runs = figures.series.iter().flat_map(|series| &series.metrics);
    let runs = runs.map(|metric| metric.summary.runs).max().unwrap_or(0);
    let what = figures.settings["kernel"].as_str().unwrap_or_default();
    let title =
        format!("{what}: milliseconds from the start of the monitor, medians of {runs} boots");
    text(&mut legend, (LEFT, 20.0), "start", &title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{legend}{bars}</svg>\n"
    )
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Series;
    use crate::host::Host;

    #[test]
    fn bars_are_as_long_as_times() {
        let mut series = Series::new("a");
        series.add("PID 1", "ms", vec![40.0]);
        series.add("gone", "ms", vec![100.0]);
        let figures = Figures {
            benchmark: "boot".into(),
            host: Host::look(),
            settings: serde_json::json!({ "kernel": "debian 6" }),
            series: vec![series],
        };
        let svg = svg(&figures);
        assert!(
            svg.contains("x=\"140.0\" y=\"64.0\" width=\"272.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("x=\"412.0\" y=\"64.0\" width=\"408.0\""),
            "{svg}"
        );
        assert!(svg.contains("100 ms</text>"), "{svg}");
        assert!(svg.contains("debian 6: milliseconds"), "{svg}");
    }
}
