//! A small grammar of documents, read from a text file, from which sentences are drawn by chance.
//!
//! A file has three kinds of sections; `#` starts a comment line.
//!
//! - `[table NAME] column; column; ...`, then one row a line, cells divided by `;`. A column `gender(pronoun)` names a
//!   row of the table `pronoun` by its first cell; a field that a row lacks is looked for in the rows it names, so that
//!   `{hero.he}` finds the pronoun of a person.
//! - `[part NAME]`, then one alternative a line; `{>NAME}` puts one of them in its place.
//! - `[document NAME WEIGHT]`, then one line of bindings and one sentence (or a few) a line, alternatives divided by ` | `;
//!   `?` is the empty alternative.
//!
//! Bindings start with `let` and are divided by `;`: `hero, friend: person` binds two different rows of a table, `place`
//! alone is `place: place`, `a: 2..9` is a number (both ends belong), `c: a + b` (also `-`, `*`) is computed.
//! In sentences `{hero.name}` is a field, `{a}` a number in words, and `{^}` makes the next letter a capital; a sentence
//! line starts with a capital anyway.
//!
//! ```text
//! [document give 1]
//! let hero, friend: person; a: 1..5; b: a + 1
//! {hero.name} gives {friend.name} {a} apples. | {friend.name} has {b} apples.
//! ```

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::Result;

/// Tables, parts and documents of one language.
pub struct Grammar {
    tables: BTreeMap<String, Table>,
    parts: BTreeMap<String, Vec<Sentence>>,
    documents: Vec<Document>,
}

struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    name: String,
    /// The table whose row this column's cell names.
    refers: Option<String>,
}

struct Document {
    name: String,
    weight: u32,
    bindings: Vec<Binding>,
    /// Alternatives, sentence by sentence.
    lines: Vec<Vec<Sentence>>,
}

/// Names bound together, and what they are bound to.
struct Binding {
    names: Vec<String>,
    source: Draw,
}

enum Draw {
    Row(String),
    Between(Operand, Operand),
    Computed(Operand, char, Operand),
}

enum Operand {
    Constant(i64),
    Variable(String),
}

type Sentence = Vec<Piece>;

enum Piece {
    Text(String),
    Field(String, String),
    Number(String),
    Part(String),
    Capital,
}

/// What a name stands for in one document.
enum Value {
    Row { table: String, row: usize },
    Number(i64),
}

type Values = BTreeMap<String, Value>;

/// Put before a letter to be made a capital; never part of the text.
const CAPITAL: char = '\u{1}';

impl Grammar {
    /// Reads a grammar; an error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut grammar = Self { tables: BTreeMap::new(), parts: BTreeMap::new(), documents: Vec::new() };
        let mut section = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let located = |error| format!("line {}: {error}", index + 1);
            if let Some(header) = line.strip_prefix('[') {
                section = Some(grammar.header(header).map_err(located)?);
            } else {
                let section = section.as_ref().ok_or_else(|| located("outside a section".into()))?;
                grammar.line(section, line).map_err(located)?;
            }
        }
        Ok(grammar)
    }

    fn header(&mut self, header: &str) -> Result<Section> {
        let (header, rest) = header.split_once(']').ok_or("no `]`")?;
        let words: Vec<&str> = header.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["table", name] => {
                let columns = rest.split(';').map(Column::parse).collect();
                self.tables.insert(name.to_string(), Table { columns, rows: Vec::new() });
                Section::Table(name.to_string())
            }
            ["part", name] => {
                self.parts.insert(name.to_string(), Vec::new());
                Section::Part(name.to_string())
            }
            ["document", name, weight] => {
                let (name, weight) = (name.to_string(), weight.parse()?);
                self.documents.push(Document { name, weight, bindings: Vec::new(), lines: Vec::new() });
                Section::Document
            }
            _ => return Err(format!("unknown section [{header}]").into()),
        })
    }

    fn line(&mut self, section: &Section, line: &str) -> Result<()> {
        match section {
            Section::Table(name) => {
                let table = self.tables.get_mut(name).ok_or("no such table")?;
                let row: Vec<String> = line.split(';').map(|cell| cell.trim().to_string()).collect();
                let columns = table.columns.len();
                if row.len() != columns {
                    return Err(format!("{} cells in a table of {columns} columns", row.len()).into());
                }
                table.rows.push(row);
            }
            Section::Part(name) => self.parts.get_mut(name).ok_or("no such part")?.push(sentence(line)?),
            Section::Document => {
                let document = self.documents.last_mut().ok_or("no document")?;
                match line.strip_prefix("let ") {
                    Some(bindings) => {
                        document.bindings = bindings.split(';').map(Binding::parse).collect::<Result<_>>()?;
                    }
                    None => document.lines.push(line.split(" | ").map(sentence).collect::<Result<_>>()?),
                }
            }
        }
        Ok(())
    }

    /// One document, on one line of text.
    pub fn document(&self, random: &mut impl Rng) -> Result<String> {
        let weights: u32 = self.documents.iter().map(|document| document.weight).sum();
        if weights == 0 {
            return Err("no document has a weight".into());
        }
        let mut ticket = random.random_range(0..weights);
        for document in &self.documents {
            if ticket < document.weight {
                return self
                    .write(document, random)
                    .map_err(|error| format!("document {}: {error}", document.name).into());
            }
            ticket -= document.weight;
        }
        Err("the weights of the documents do not add up".into())
    }

    fn write(&self, document: &Document, random: &mut impl Rng) -> Result<String> {
        let mut values = Values::new();
        // Rows already taken, so that two names never mean the same row.
        let mut taken: BTreeSet<(String, usize)> = BTreeSet::new();
        for binding in &document.bindings {
            for name in &binding.names {
                let value = match &binding.source {
                    Draw::Row(table) => {
                        let rows = self.table(table)?.rows.len();
                        let free: Vec<usize> =
                            (0..rows).filter(|&row| !taken.contains(&(table.clone(), row))).collect();
                        let row = *pick(&free, random).map_err(|_| format!("table {table} has too few rows"))?;
                        taken.insert((table.clone(), row));
                        Value::Row { table: table.clone(), row }
                    }
                    Draw::Between(low, high) => {
                        let (low, high) = (low.value(&values)?, high.value(&values)?);
                        if low > high {
                            return Err(format!("{name} cannot be drawn from {low}..{high}").into());
                        }
                        Value::Number(random.random_range(low..=high))
                    }
                    Draw::Computed(left, operator, right) => {
                        let (left, right) = (left.value(&values)?, right.value(&values)?);
                        Value::Number(match operator {
                            '+' => left + right,
                            '-' => left - right,
                            _ => left * right,
                        })
                    }
                };
                values.insert(name.clone(), value);
            }
        }
        let mut text = String::new();
        for alternatives in &document.lines {
            let mut line = String::from(CAPITAL);
            self.fill(pick(alternatives, random)?, &values, random, &mut line)?;
            if line.len() > CAPITAL.len_utf8() {
                text.push_str(if text.is_empty() { "" } else { " " });
                text.push_str(&line);
            }
        }
        Ok(with_capitals(&text))
    }

    fn fill(&self, sentence: &Sentence, values: &Values, random: &mut impl Rng, text: &mut String) -> Result<()> {
        for piece in sentence {
            match piece {
                Piece::Text(words) => text.push_str(words),
                Piece::Capital => text.push(CAPITAL),
                Piece::Part(name) => {
                    let part = self.parts.get(name).ok_or_else(|| format!("no part {name}"))?;
                    self.fill(pick(part, random)?, values, random, text)?;
                }
                Piece::Number(name) => match values.get(name) {
                    Some(Value::Number(number)) => text.push_str(self.number(*number)?),
                    _ => return Err(format!("{{{name}}} is not a number here").into()),
                },
                Piece::Field(name, field) => match values.get(name) {
                    Some(Value::Row { table, row }) => {
                        let found = self.field(table, *row, field)?;
                        text.push_str(found.ok_or_else(|| format!("table {table} has no field {field}"))?);
                    }
                    _ => return Err(format!("{{{name}.{field}}} is not bound here").into()),
                },
            }
        }
        Ok(())
    }

    fn table(&self, name: &str) -> Result<&Table> {
        self.tables.get(name).ok_or_else(|| format!("no table {name}").into())
    }

    fn number(&self, number: i64) -> Result<&str> {
        let row = self.table("number")?.rows.get(usize::try_from(number)?);
        Ok(row.ok_or_else(|| format!("no word for {number}"))?[0].as_str())
    }

    /// A row's own field, or else that of a row it names.
    fn field(&self, table: &str, row: usize, field: &str) -> Result<Option<&str>> {
        let table = self.table(table)?;
        let cells = &table.rows[row];
        if let Some(index) = table.columns.iter().position(|column| column.name == field) {
            return Ok(Some(&cells[index]));
        }
        for (column, cell) in table.columns.iter().zip(cells) {
            let Some(other) = &column.refers else { continue };
            let key = self.table(other)?.rows.iter().position(|row| row[0] == *cell);
            let key = key.ok_or_else(|| format!("table {other} has no row {cell}"))?;
            if let Some(found) = self.field(other, key, field)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

enum Section {
    Table(String),
    Part(String),
    Document,
}

impl Column {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((name, refers)) => Self { name: name.to_string(), refers: Some(refers.to_string()) },
            None => Self { name: text.to_string(), refers: None },
        }
    }
}

impl Binding {
    fn parse(text: &str) -> Result<Self> {
        let (names, source) = text.split_once(':').unwrap_or((text, text));
        let names = names.split(',').map(|name| name.trim().to_string()).collect();
        let source = source.trim();
        let source = match (source.split_once(".."), source.split_whitespace().collect::<Vec<_>>().as_slice()) {
            (Some((low, high)), _) => Draw::Between(Operand::parse(low), Operand::parse(high)),
            (None, [left, operator @ ("+" | "-" | "*"), right]) => {
                let operator = operator.chars().next().ok_or("empty operator")?;
                Draw::Computed(Operand::parse(left), operator, Operand::parse(right))
            }
            (None, [table]) => Draw::Row(table.to_string()),
            _ => return Err(format!("`{source}` is no table, range or sum").into()),
        };
        Ok(Self { names, source })
    }
}

impl Operand {
    fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Variable(text.to_string()), Self::Constant)
    }

    fn value(&self, values: &Values) -> Result<i64> {
        match self {
            Self::Constant(number) => Ok(*number),
            Self::Variable(name) => match values.get(name) {
                Some(Value::Number(number)) => Ok(*number),
                _ => Err(format!("{name} is not a number bound before").into()),
            },
        }
    }
}

fn sentence(text: &str) -> Result<Sentence> {
    let mut pieces = Sentence::new();
    let mut rest = text.trim();
    if rest == "?" {
        return Ok(pieces);
    }
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').ok_or_else(|| format!("no `}}` after `{before}`"))?;
        pieces.push(Piece::Text(before.to_string()));
        pieces.push(match (slot, slot.strip_prefix('>'), slot.split_once('.')) {
            ("^", _, _) => Piece::Capital,
            (_, Some(part), _) => Piece::Part(part.to_string()),
            (_, None, Some((name, field))) => Piece::Field(name.to_string(), field.to_string()),
            (_, None, None) => Piece::Number(slot.to_string()),
        });
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_string()));
    Ok(pieces)
}

fn pick<'a, T>(alternatives: &'a [T], random: &mut impl Rng) -> Result<&'a T> {
    if alternatives.is_empty() {
        return Err("nothing to choose from".into());
    }
    Ok(&alternatives[random.random_range(0..alternatives.len())])
}

/// Takes the marks out and makes the first letter after each a capital.
fn with_capitals(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut pending = false;
    for letter in text.chars() {
        if letter == CAPITAL {
            pending = true;
        } else if pending && letter.is_alphabetic() {
            result.extend(letter.to_uppercase());
            pending = false;
        } else {
            result.push(letter);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SMALL: &str = "
        # a comment
        [table pronoun] key; he
        m; he
        f; she
        [table person] name; gender(pronoun)
        Tom; m
        Eva; f
        [table number] word
        zero
        one
        two
        [part end]
        {hero.he} is here.
        [document one 1]
        let hero, friend: person; a: 1..1; b: a + 1
        {hero.name} has {a}, {friend.name} has {b}. | {hero.name} has {a}, {friend.name} has {b}.
        ?
        {>end}
    ";

    #[test]
    fn a_document_binds_different_rows_computes_and_capitalises() {
        let grammar = Grammar::parse(SMALL).unwrap();
        let text = grammar.document(&mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert!(
            text == "Tom has one, Eva has two. He is here." || text == "Eva has one, Tom has two. She is here.",
            "{text}"
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, expected) in [
            ("[nonsense]", "line 1"),
            ("word", "line 1"),
            ("[table a] b; c\nx", "line 2"),
            ("[document a 1]\n{open", "line 2"),
        ] {
            let error = format!("{:#}", Grammar::parse(text).err().unwrap());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
