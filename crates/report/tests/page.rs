//! The page as a file: well formed whatever the names are, and with no number that the JSON does not have.

use quench_report::{
    Bound, Column, Crossing, Datum, Diagram, Document, Evidence, Explorer, Gate, Input, Judgement, Language, Languages,
    Layer, Layers, Logistic, Map, Measure, Number, Parameter, Prediction, RateAxis, RatePoint, Rates, ReportError,
    Response, Row, Run, Shape, Size, Step, Sweep, Verdict, rounded,
};

const HOSTILE: &str = "</script><script>alert(1)</script> <b a=\"x\" b='y'> & --> ]]> \u{1} \u{2028} {{x}}";

fn number(value: f64) -> Number {
    Number::new(value, Evidence::Measured).between(value * 0.9, value * 1.1, 0.95).by(HOSTILE, 77)
}

/// Every section, with names that are markup.
fn hostile() -> Document {
    let name = || HOSTILE.to_owned();
    let certified = |value| Number::new(value, Evidence::Certified);
    let predicted = |value| Number::new(value, Evidence::Predicted);
    let size = Size {
        dense_bytes: 11_540_992,
        bytes: 3_333_333,
        compression: 3.4623,
        compression_f32: 6.9246,
        bits_per_weight: 4.125,
        bits_per_parameter: 4.621,
    };
    let gate = Gate {
        name: name(),
        language: Some(name()),
        limit: 0.0517,
        found: Some(number(0.0311)),
        verdict: Verdict::Passed,
        remark: name(),
    };
    let run = Run {
        name: name(),
        model: name(),
        recipe: name(),
        device: name(),
        size: Some(size),
        measures: vec![
            Measure { name: name(), unit: name(), number: number(0.01234567) },
            Measure { name: name(), unit: String::new(), number: predicted(f64::NAN) },
        ],
        gates: vec![gate],
        notes: vec![name()],
    };
    let layer = |k: u32| Layer {
        layer: format!("{HOSTILE}.{k}"),
        scheme: name(),
        method: name(),
        bits: Some(4.125),
        weight_snr_db: Some(19.876 + f64::from(k)),
        output_snr_db: (k > 0).then_some(22.1234),
        predicted_kl: Some(0.000_345 * f64::from(k)),
        ..Layer::default()
    };
    let step = |k: u32| Step { step: 0.1 * f64::from(k), metric: 1.0 / f64::from(k), error: 0.0123 };
    let explorer = Explorer {
        title: name(),
        parameters: vec![Parameter { name: name(), unit: name(), logarithmic: true }],
        columns: vec![Column { name: name(), unit: name(), evidence: Evidence::Measured, logarithmic: false }],
        rows: (1..4)
            .map(|k| Row { at: vec![f64::from(k)], found: vec![(k != 2).then_some(0.777 / f64::from(k))] })
            .collect(),
    };
    Document {
        version: "0.1.0".into(),
        title: name(),
        inputs: vec![Input { file: name(), kind: name() }],
        runs: vec![run],
        rates: vec![Rates {
            title: name(),
            rate: RateAxis::new(name(), name()),
            quality: RateAxis::new(name(), name()).logarithmic(),
            bounds: vec![Bound {
                name: name(),
                evidence: Evidence::Certified,
                points: vec![(1.5, 9.03), (2.5, 15.05)],
            }],
            points: vec![RatePoint { series: name(), name: name(), rate: 2.25, quality: number(11.87) }],
        }],
        predictions: vec![Prediction {
            name: name(),
            bits: Some(4.62),
            predicted: predicted(0.0241),
            measured: Some(number(0.0255)),
            doubt: name(),
        }],
        sweeps: vec![Sweep {
            title: name(),
            metric: name(),
            unit: name(),
            points: (1..9).map(step).collect(),
            monotone: (1..9).map(|k| 1.0 / f64::from(k)).collect(),
            logistic: Some(Logistic { before: 1.01, after: 0.11, half: number(0.312), width: number(1.44) }),
            crossings: vec![Crossing { limit: 0.512, step: number(0.198) }],
            response: Some(Response {
                trace: number(240.0),
                crossings: vec![Crossing { limit: 0.512, step: number(0.226) }],
                end: Some(number(0.707)),
            }),
            judgement: Some(Judgement::Sharp { step: number(0.313) }),
        }],
        languages: vec![Languages {
            run: name(),
            rows: vec![Language {
                language: name(),
                samples: 510,
                kl: Some(number(0.0091)),
                increase: Some(number(-0.0043)),
                agreement: None,
            }],
        }],
        layers: vec![Layers { run: name(), rows: (0..12).map(layer).collect() }],
        shapes: vec![Shape {
            title: name(),
            points: 60,
            before: vec![Diagram { dimension: 1, pairs: vec![(0.21, 1.73)], essential: vec![] }],
            after: vec![Diagram { dimension: 1, pairs: vec![(0.23, 1.69)], essential: vec![] }],
            bound: Some(certified(0.0987)),
            distances: vec![number(0.0432)],
        }],
        maps: vec![Map {
            title: name(),
            axes: [name(), name()],
            explained: Some(0.4567),
            names: vec![name(), name()],
            before: vec![[0.11, 0.22], [0.33, 0.44]],
            after: vec![[0.12, 0.23], [0.34, 0.45]],
        }],
        explorers: vec![explorer.clone(), explorer],
    }
}

/// Checks that every element is closed in order, attributes are quoted and unique, and `&` and `<` stand only where they are markup;
/// the numbers of elements by name. Enough of XML for pages that are XML but for their first line and void-free.
fn elements(text: &str) -> Vec<String> {
    let (mut open, mut all, mut ids) = (Vec::<String>::new(), Vec::new(), std::collections::BTreeSet::new());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        characters(&rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "an element is closed that is not the last one");
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name:?}");
        let mut names = std::collections::BTreeSet::new();
        while !attributes.trim().is_empty() {
            let (key, value) =
                attributes.trim_start().split_once("=\"").unwrap_or_else(|| panic!("{attributes:?} in {tag:?}"));
            let (value, after) = value.split_once('"').expect("a quoted value ends");
            assert!(
                key.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == 'B' || c == 'x'),
                "{key:?} in {tag:?}"
            );
            assert!(names.insert(key), "{key} twice in {tag}");
            assert!(key != "id" || ids.insert(value.to_owned()), "the id {value} is there twice");
            characters(value);
            attributes = after;
        }
        all.push(name.to_owned());
        if name == "script" || name == "style" {
            // Text that is not markup, up to the first end of the element, as a browser reads it.
            let close = format!("</{name}>");
            let end = rest.find(&close).expect("it ends");
            rest = &rest[end + close.len()..];
        } else if !empty {
            open.push(name.to_owned());
        }
    }
    characters(rest);
    assert!(open.is_empty(), "{open:?} are not closed");
    all
}

fn characters(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && !c.is_whitespace()), "a control character in {text:?}");
    for (at, _) in text.match_indices('&') {
        let entity = &text[at..];
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"].iter().any(|known| entity.starts_with(known));
        assert!(known, "{:?}", entity.chars().take(12).collect::<String>());
    }
}

/// The numbers of a JSON text, outside of its strings.
fn numbers(json: &str) -> Vec<f64> {
    let (mut found, mut word, mut string, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in json.chars() {
        if string {
            string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
        } else if c == '"' {
            string = true;
        } else if c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E') && (!word.is_empty() || c == '-') {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            found.push(word.parse().unwrap_or_else(|_| panic!("{word}")));
            word.clear();
        }
    }
    found
}

/// `(value, text)` of every number of the page.
fn shown(html: &str) -> Vec<(f64, &str)> {
    let part = |part: &'static str| html.split(part).skip(1);
    part("<data value=\"")
        .map(|rest| {
            let (value, rest) = rest.split_once("\">").unwrap();
            (value.parse().unwrap(), rest.split_once("</data>").unwrap().0)
        })
        .collect()
}

#[test]
fn every_section_is_well_formed_with_hostile_names() {
    let document = hostile();
    let html = document.html().unwrap();
    let all = elements(&html);
    let count = |name: &str| all.iter().filter(|element| *element == name).count();
    assert_eq!(count("section"), document.filling().len());
    // The JSON and the explorers' lines: nothing of the names became a script, an image or a bold letter.
    assert_eq!((count("script"), count("b"), count("img")), (2, 0, 0));
    assert!(count("svg") > 10 && count("svg") == count("desc"), "{} {}", count("svg"), count("desc"));
    assert!(!html.contains("<b a"), "a name is markup");
    for about in ["Summary", "Explorer", "Threshold", "Shape", "Map of the vectors"] {
        assert!(html.contains(&format!("{about}</h2>")), "{about}");
    }
    for figure in document.figures() {
        let svg = figure.draw(true).svg(&figure.title, &figure.description);
        assert_eq!(elements(&svg)[..3], ["svg", "title", "desc"], "{}", figure.id);
        assert!(figure.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{}", figure.id);
    }
}

#[test]
fn the_page_asks_for_nothing() {
    let html = hostile().html().unwrap();
    assert!(html.contains("default-src 'none'"));
    for reference in ["http:", "https:", "url(", "@import", "src=\"", "srcset", "fetch(", "import("] {
        // Names are text, and text is searched as well; the only address is the name of a namespace in the script.
        let found = html.replace("\"http://www.w3.org/2000/svg\"", "").contains(reference);
        assert!(!found, "{reference}");
    }
}

#[test]
fn every_number_of_the_page_is_one_of_the_json() {
    let document = hostile();
    let (html, json) = (document.html().unwrap(), document.json());
    let known = numbers(&json);
    let shown = shown(&html);
    assert!(shown.len() > 100, "{}", shown.len());
    // What is counted or subtracted for a table and is not in the JSON: features, and the longest of their lives.
    let lives = [1.73 - 0.21, 1.69 - 0.23, 1.0];
    for (value, text) in shown {
        assert_eq!(text, rounded(value), "{value} is shown as {text}");
        assert!(known.contains(&value) || lives.contains(&value), "{value} is not in the JSON");
    }
}

#[test]
fn the_embedded_json_is_the_file() {
    let document = hostile();
    let html = document.html().unwrap();
    let (_, rest) = html.split_once("id=\"report-data\">").unwrap();
    let (embedded, _) = rest.split_once("</script>").unwrap();
    let escapes = [("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&"), ("\\u2028", "\u{2028}")];
    let written = escapes.iter().fold(embedded.to_owned(), |text, (escape, c)| text.replace(escape, c));
    assert_eq!(written, document.json());
    // And can be read again; `serde_json` may round the last bit of a number another way.
    let again = Document::from_json(embedded).unwrap();
    assert_eq!(again.runs[0].name, HOSTILE);
    let (numbers, expected) = (numbers(&again.json()), numbers(embedded));
    assert_eq!(numbers.len(), expected.len());
    assert!(numbers.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= f64::EPSILON * b.abs()));
}

#[test]
fn sections_without_data_are_not_shown() {
    let document = Document { predictions: hostile().predictions, title: "one".into(), ..Document::default() };
    let html = document.html().unwrap();
    assert_eq!(elements(&html).iter().filter(|name| *name == "section").count(), 1);
    assert_eq!(
        elements(&html).iter().filter(|name| *name == "script").count(),
        1,
        "without an explorer there is no script"
    );
    let filled: Vec<_> = document.filling().into_iter().filter(|section| section.parts > 0).map(|s| s.title).collect();
    assert_eq!(filled, ["Prediction against measurement"]);
}

#[test]
fn what_cannot_be_shown_is_an_error() {
    let empty = Document { title: "nothing".into(), ..Document::default() };
    assert_eq!(empty.html(), Err(ReportError::Empty));
    assert_eq!(empty.html().unwrap_err().to_string(), "there is nothing to report: no section has data");
    let broken = |change: fn(&mut Document)| {
        let mut document = Document { maps: hostile().maps, sweeps: hostile().sweeps, ..Document::default() };
        document.explorers = hostile().explorers;
        change(&mut document);
        document.html().unwrap_err().to_string()
    };
    assert!(broken(|d| d.maps[0].after.truncate(1)).contains("the vectors after has 1 entries, expected 2"));
    assert!(broken(|d| d.sweeps[0].monotone.truncate(7)).contains("the monotone fit has 7 entries, expected 8"));
    assert!(broken(|d| d.explorers[0].rows[0].found.clear()).contains("a row has 0 entries, expected 1"));
    assert!(broken(|d| d.explorers[1].rows[0].at[0] = f64::NAN).contains("a setting is not finite"));
    let error = Document::from_json("{\"runs\": 1}").unwrap_err().to_string();
    assert!(error.starts_with("this is not the JSON of a report: "), "{error}");
    assert!(Document::from_json("{\"sections\": []}").is_err(), "unknown keys are errors");
}

#[test]
fn marks_lie_inside_the_sheet() {
    use quench_report::{Axis, Figure, Scale, Series, Stroke, Style};
    let data = [(1e-3, -5.0), (10.0, 7.0), (0.0, 1.0), (f64::NAN, 2.0), (1e3, f64::INFINITY)];
    let figure = Figure {
        id: "a".into(),
        title: "t".into(),
        description: "d".into(),
        x: Axis::new("x", Scale::Log),
        y: Axis::new("y", Scale::Linear),
        series: vec![Series {
            name: "s".into(),
            style: Style::Points,
            slot: 0,
            data: data.map(|(x, y)| Datum::at(x, y)).to_vec(),
        }],
        lines: Vec::new(),
    };
    let drawing = figure.draw(true);
    let places: Vec<(f64, f64)> = drawing
        .marks
        .iter()
        .filter_map(|mark| if let Stroke::Point { at, .. } = mark.stroke { Some(at) } else { None })
        .collect();
    // Two of the data, as 0 has no logarithm and the others are not finite, and the mark of the legend.
    assert_eq!(places.len(), 3);
    assert!(places.iter().all(|(x, y)| (0.0..drawing.width).contains(x) && (0.0..drawing.height).contains(y)));
    let (low, high) = (places[0], places[1]);
    assert!(low.0 < high.0 && low.1 > high.1, "more is further right and higher");
}
