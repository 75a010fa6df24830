//! The page: sections with their figures and tables, the JSON, and the few lines that move the explorers.

use std::fmt::Write as _;

use crate::document::{Chapter, Document};
use crate::escape;
use crate::figure::Figure;
use crate::number::rounded;
use crate::section::{About, Group, Part};
use crate::table::{Cell, Head, Table, badge};
use crate::{Evidence, Explorer};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("explorer.js");

/// Nothing may be asked for, from anywhere; style and script are those of the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// Up to so many groups of a section are unfolded; of more, the first.
const OPEN: usize = 3;

/// The whole file.
pub(crate) fn html(document: &Document, chapters: &[Chapter]) -> String {
    let title = if document.title.is_empty() { "Report" } else { &document.title };
    let title = escape::text(title);
    let shown: Vec<&Chapter> = chapters.iter().filter(|chapter| !chapter.groups.is_empty()).collect();
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<link rel=\"icon\" href=\"data:,\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">To the content</a>\n<header><p class=\"brand\">Quench report</p><h1>{title}</h1>\n"
    );
    if shown.len() > 1 {
        out.push_str("<nav aria-label=\"Sections\"><ul>");
        for Chapter { about: About { id, title, .. }, .. } in &shown {
            let _ = write!(out, "<li><a href=\"#{id}\">{title}</a></li>");
        }
        out.push_str("</ul></nav>\n");
    }
    out.push_str("</header>\n<main id=\"main\">\n");
    for chapter in &shown {
        section(&mut out, chapter);
    }
    out.push_str("</main>\n<footer>\n");
    if !document.inputs.is_empty() {
        let mut table = Table::new("Where the numbers come from", vec![Head::plain("file"), Head::plain("written by")]);
        table.rows =
            document.inputs.iter().map(|input| vec![Cell::text(&input.file), Cell::text(&input.kind)]).collect();
        let _ = writeln!(out, "<details><summary>Inputs</summary>{}</details>", table.html(None));
    }
    let version = escape::text(&document.version);
    let _ = write!(
        out,
        "<p>All numbers stand in this file as JSON, in the element <code>report-data</code>. Quench {version}</p>\n</footer>\n\
         <script type=\"application/json\" id=\"report-data\">{}</script>\n",
        escape::json(&document.json())
    );
    if !document.explorers.is_empty() {
        let _ = write!(out, "<script>\n{SCRIPT}</script>\n");
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn section(out: &mut String, Chapter { about, groups }: &Chapter) {
    let About { id, title, text, .. } = about;
    let _ =
        write!(out, "<section id=\"{id}\" aria-labelledby=\"{id}-heading\">\n<h2 id=\"{id}-heading\">{title}</h2>\n");
    let _ = writeln!(out, "<p class=\"about\">{}</p>", escape::text(text));
    for (at, group) in groups.iter().enumerate() {
        self::group(out, group, at == 0 || groups.len() <= OPEN, groups.len() > 1);
    }
    out.push_str("</section>\n");
}

/// Where there are several groups, each can be folded.
fn group(out: &mut String, Group { title, parts }: &Group, open: bool, several: bool) {
    let title = escape::text(title);
    if several {
        let open = if open { " open=\"open\"" } else { "" };
        let _ = writeln!(out, "<details class=\"group\"{open}><summary>{title}</summary>");
    } else if !title.is_empty() {
        let _ = writeln!(out, "<h3>{title}</h3>");
    }
    let mut figures = false;
    for part in parts {
        // Figures stand beside each other where there is room.
        if matches!(part, Part::Figure(_)) != figures {
            figures = !figures;
            out.push_str(if figures { "<div class=\"figures\">\n" } else { "</div>\n" });
        }
        match part {
            Part::Text(text) => {
                let _ = writeln!(out, "<p>{}</p>", escape::text(text));
            }
            Part::Figure(figure) => self::figure(out, figure),
            Part::Table(table) => out.push_str(&table.html(None)),
            Part::Fallback(table) => folded(out, table, None),
            Part::Explorer(at, explorer) => self::explorer(out, *at, explorer),
        }
    }
    if figures {
        out.push_str("</div>\n");
    }
    if several {
        out.push_str("</details>\n");
    }
}

fn figure(out: &mut String, figure: &Figure) {
    let svg = figure.draw(false).inline(&format!("figure-{}", figure.id), &figure.title, &figure.description);
    let _ = write!(out, "<figure>\n<figcaption>{}</figcaption>\n{svg}</figure>\n", escape::text(&figure.title));
}

fn folded(out: &mut String, table: &Table, id: Option<&str>) {
    let caption = escape::text(&table.caption);
    let _ = writeln!(out, "<details><summary>Table: {caption}</summary>{}</details>", table.html(id));
}

/// Sliders, the place of the curve and of what is found. The script fills in rows of the table below and draws in the frames, which
/// show all rows without it.
fn explorer(out: &mut String, at: usize, explorer: &Explorer) {
    let id = format!("explorer-{at}");
    let Explorer { title, parameters, columns, rows } = explorer;
    let _ = write!(out, "<div class=\"explorer\" id=\"{id}\" data-explorer=\"{at}\">\n<div class=\"controls\">\n");
    for (place, parameter) in parameters.iter().enumerate() {
        let values = explorer.values(place);
        let labels: Vec<String> = values.iter().map(|value| rounded(*value)).collect();
        let first = rows.first().and_then(|row| values.iter().position(|value| *value == row.at[place])).unwrap_or(0);
        let (name, unit) = (escape::text(&parameter.name), escape::text(&parameter.unit));
        let _ = writeln!(
            out,
            "<p><label for=\"{id}-slider-{place}\">{name}</label><input type=\"range\" id=\"{id}-slider-{place}\" min=\"0\" \
             max=\"{}\" step=\"1\" value=\"{first}\" data-labels=\"{}\" aria-valuetext=\"{}\"/>\
             <output for=\"{id}-slider-{place}\">{}</output> <small>{unit}</small></p>",
            values.len().saturating_sub(1),
            labels.join("|"),
            labels.get(first).map_or("", String::as_str),
            labels.get(first).map_or("", String::as_str),
        );
    }
    let select = |out: &mut String, name: &str, label: &str, names: Vec<&str>| {
        let _ = write!(out, "<p><label for=\"{id}-{name}\">{label}</label><select id=\"{id}-{name}\" name=\"{name}\">");
        for (value, name) in names.into_iter().enumerate() {
            let _ = write!(out, "<option value=\"{value}\">{}</option>", escape::text(name));
        }
        out.push_str("</select></p>\n");
    };
    select(out, "column", "curve of", columns.iter().map(|column| column.name.as_str()).collect());
    select(out, "parameter", "over", parameters.iter().map(|parameter| parameter.name.as_str()).collect());
    out.push_str("<noscript><p>The sliders need JavaScript; the table below has all numbers.</p></noscript>\n</div>\n");
    out.push_str("<div class=\"frames\">\n");
    for (over, column) in (0..parameters.len()).flat_map(|over| (0..columns.len()).map(move |column| (over, column))) {
        let figure = explorer.frame(&id, over, column);
        let (drawing, frame) = figure.framed(false);
        let axis = |(log, low, high): (bool, f64, f64)| format!("[{log},{low:?},{high:?}]");
        let hidden = if (over, column) == (0, 0) { "" } else { " hidden=\"hidden\"" };
        let svg = drawing.inline(&format!("figure-{}", figure.id), &figure.title, &figure.description);
        let _ = write!(
            out,
            "<figure data-over=\"{over}\" data-column=\"{column}\" data-box=\"[{:.1},{:.1},{:.1},{:.1}]\" data-x=\"{}\" \
             data-y=\"{}\"{hidden}>\n<figcaption>{}</figcaption>\n{svg}</figure>\n",
            frame.left,
            frame.top,
            frame.width,
            frame.height,
            axis(frame.x.raw()),
            axis(frame.y.raw()),
            escape::text(&figure.title),
        );
    }
    out.push_str(
        "</div>\n<div class=\"found\" aria-live=\"polite\"><table><caption>Found for this setting</caption><tbody>\n",
    );
    for column in columns {
        let (name, unit) = (escape::text(&column.name), escape::text(&column.unit));
        let badge = badge(Evidence::clone(&column.evidence));
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{name} <small>{unit}</small> {badge}</th><td class=\"number\">–</td></tr>"
        );
    }
    out.push_str("</tbody></table><p class=\"missing\" hidden=\"hidden\">Nothing was computed for this setting.</p></div>\n</div>\n");
    let mut table = explorer.table();
    if table.caption.is_empty() {
        table.caption.clone_from(title);
    }
    folded(out, &table, Some(&format!("{id}-rows")));
}
