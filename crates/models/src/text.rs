//! Texts for calibration and evaluation: read, checked, and cut into samples of equal length.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::{ModelError, Tokenizer};

/// File name endings that are read from a folder.
const ENDINGS: [&str; 4] = ["txt", "text", "utf8", "md"];
/// A text is encoded in pieces of about this many bytes per token of a sample, cut at line ends: long enough that
/// little is lost at a piece's end, short enough that the samples come from all over the text.
const PIECE: usize = 64;
/// This many times the samples asked for are encoded before they are drawn, where the text is that long.
const CHOICE: usize = 4;

/// Where text of one language comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSource {
    /// The language, if it is told apart.
    pub language: Option<String>,
    /// Files, and folders whose text files are read in the order of their names.
    pub paths: Vec<PathBuf>,
}

impl TextSource {
    /// A source without a language.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { language: None, paths: vec![path.into()] }
    }

    /// Reads all files of the source, one string each.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is empty, or is not text; if a folder has no text file. The error names it.
    pub fn read(&self) -> Result<Vec<String>, ModelError> {
        let mut texts = Vec::new();
        for path in &self.paths {
            if path.is_dir() {
                for file in text_files(path)? {
                    texts.push(read_text(&file)?);
                }
            } else {
                texts.push(read_text(path)?);
            }
        }
        Ok(texts)
    }
}

/// Written `FILE`, `FOLDER` or `language=FILE`.
impl FromStr for TextSource {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, ModelError> {
        let is_language =
            |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let (language, path) = match text.split_once('=') {
            Some((word, path)) if is_language(word) => (Some(word.to_owned()), path),
            // An equals sign further on belongs to the path.
            _ => (None, text),
        };
        if path.is_empty() {
            return Err(ModelError::TextSource(text.to_owned()));
        }
        Ok(Self { language, paths: vec![path.into()] })
    }
}

impl fmt::Display for TextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(language) = &self.language {
            write!(f, "{language}=")?;
        }
        let paths: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(","))
    }
}

/// A run of tokens that stood together in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The language of its source.
    pub language: Option<String>,
    /// The tokens.
    pub ids: Vec<u32>,
}

/// Draws samples of `length` tokens, equally many from each language; together `samples`, rounded up to that.
///
/// The samples of a language are windows that do not overlap, drawn without replacement from all over its text, and
/// returned language by language in the order of the sources. Where the tokenizer begins a text with a token of its
/// own, so does every sample. The same texts, tokenizer and seed give the same samples.
///
/// # Errors
///
/// As [`TextSource::read`]; if the text of a language is too short, saying by how much.
pub fn sample(
    sources: &[TextSource],
    tokenizer: &Tokenizer,
    samples: usize,
    length: usize,
    seed: u64,
) -> Result<Vec<Sample>, ModelError> {
    let languages = by_language(sources);
    let wanted = samples.div_ceil(languages.len().max(1));
    let mut drawn = Vec::new();
    for (language, sources) in languages {
        let mut texts = Vec::new();
        for source in sources {
            texts.extend(source.read()?);
        }
        // Each language has its own generator: adding one changes nothing for the others.
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for ids in draw(&texts, tokenizer, wanted, length, &mut rng)?.map_err(|found| ModelError::TooLittleText {
            name: language.clone().unwrap_or_else(|| "calibration".to_owned()),
            found,
            wanted,
            length,
        })? {
            drawn.push(Sample { language: language.clone(), ids });
        }
    }
    Ok(drawn)
}

/// The sentences of one language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// The language, if it is told apart.
    pub language: Option<String>,
    /// In any order.
    pub sentences: Vec<String>,
}

/// Draws sentences, equally many of each language: together `samples`, rounded up to that, or fewer where there are no more.
///
/// A sentence is encoded with what the tokenizer puts around it and, if it is longer than `length` tokens, cut before the last.
/// They are drawn without replacement; the same sentences, tokenizer and seed give the same samples.
///
/// # Errors
///
/// If the tokenizer fails on a sentence.
pub fn sentences(
    languages: &[Corpus],
    tokenizer: &Tokenizer,
    samples: usize,
    length: usize,
    seed: u64,
) -> Result<Vec<Sample>, ModelError> {
    let wanted = samples.div_ceil(languages.len().max(1));
    let mut drawn = Vec::new();
    for Corpus { language, sentences } in languages {
        let mut order: Vec<&String> = sentences.iter().collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        for sentence in order.into_iter().take(wanted) {
            let mut ids = tokenizer.encode(sentence, true)?;
            if let Some(last) = ids.last().copied().filter(|_| ids.len() > length) {
                ids.truncate(length.saturating_sub(1));
                ids.push(last);
            }
            if !ids.is_empty() {
                drawn.push(Sample { language: language.clone(), ids });
            }
        }
    }
    Ok(drawn)
}

/// The sources of each language, in the order in which the languages first appear.
fn by_language(sources: &[TextSource]) -> Vec<(Option<String>, Vec<&TextSource>)> {
    let mut order: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    let mut languages: Vec<(Option<String>, Vec<&TextSource>)> = Vec::new();
    for source in sources {
        let index = *order.entry(&source.language).or_insert_with(|| {
            languages.push((source.language.clone(), Vec::new()));
            languages.len() - 1
        });
        languages[index].1.push(source);
    }
    languages
}

/// `wanted` windows of `length` tokens, or how many there are if they are fewer.
fn draw(
    texts: &[String],
    tokenizer: &Tokenizer,
    wanted: usize,
    length: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Result<Vec<Vec<u32>>, usize>, ModelError> {
    let first: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    let body = length.saturating_sub(first.len());
    if body == 0 {
        return Ok(Err(0));
    }
    let mut pieces: Vec<&str> = texts.iter().flat_map(|text| pieces(text, PIECE * length)).collect();
    pieces.shuffle(rng);
    let mut found: Vec<Vec<u32>> = Vec::new();
    for piece in pieces {
        if found.len() >= wanted * CHOICE {
            break;
        }
        let ids = tokenizer.encode(piece, false)?;
        found.extend(windows(&ids, body).map(|window| [&first, window].concat()));
    }
    if found.len() < wanted {
        return Ok(Err(found.len()));
    }
    found.shuffle(rng);
    found.truncate(wanted);
    Ok(Ok(found))
}

/// Cuts a text at line ends into pieces of `bytes` or more; a line is never cut.
fn pieces(text: &str, bytes: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A byte offset may fall inside of a character; a line end never does.
        let end = match rest.as_bytes().iter().skip(bytes).position(|&byte| byte == b'\n') {
            Some(line_end) => bytes + line_end + 1,
            None => rest.len(),
        };
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

/// The windows of `length` tokens that follow each other without overlap; a shorter end is left out.
///
/// # Panics
///
/// If `length` is 0.
pub fn windows(ids: &[u32], length: usize) -> impl Iterator<Item = &[u32]> {
    ids.chunks_exact(length)
}

/// The text files of a folder, sorted by name.
fn text_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(ModelError::read(folder))? {
        let path = entry.map_err(ModelError::read(folder))?.path();
        let is_text =
            path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending));
        if is_text && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let reason = format!("the folder has no file that ends in .{}", ENDINGS.join(", ."));
        return Err(ModelError::Text { path: folder.to_owned(), reason });
    }
    files.sort();
    Ok(files)
}

/// A file as text, without the byte order mark that some editors write.
fn read_text(path: &Path) -> Result<String, ModelError> {
    let bytes = std::fs::read(path).map_err(ModelError::read(path))?;
    let wrong = |reason: String| ModelError::Text { path: path.to_owned(), reason };
    if let Some(position) = bytes.iter().position(|&byte| byte == 0) {
        return Err(wrong(format!("it has a zero byte at {position}, as binary files do")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| wrong(format!("it is not UTF-8 from byte {} on", error.utf8_error().valid_up_to())))?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    if text.trim().is_empty() {
        return Err(wrong("it is empty".to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tokenizer::tests::{bytes_tokenizer, write_folder};

    #[test]
    fn sources_are_parsed() {
        let source = |language: Option<&str>, path: &str| TextSource {
            language: language.map(str::to_owned),
            paths: vec![path.into()],
        };
        let cases = [
            ("a.txt", source(None, "a.txt")),
            ("de=a.txt", source(Some("de"), "a.txt")),
            ("pt-BR=dir/a=b.txt", source(Some("pt-BR"), "dir/a=b.txt")),
            ("./a=b.txt", source(None, "./a=b.txt")),
            ("dir/x=1/a.txt", source(None, "dir/x=1/a.txt")),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<TextSource>().unwrap(), expected, "{text}");
            assert_eq!(expected.to_string(), text);
        }
        for text in ["", "de="] {
            assert!(text.parse::<TextSource>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_text_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let cases: [(&str, &[u8], &str); 4] = [
            ("empty.txt", b"", "empty"),
            ("blank.txt", b" \n\t\n", "empty"),
            ("binary.txt", b"ab\x00c", "zero byte at 2"),
            ("latin.txt", b"ab\xe9", "UTF-8 from byte 2"),
        ];
        for (name, bytes, reason) in cases {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let message = TextSource::new(&path).read().unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(reason), "{message}");
        }
        let missing = folder.path().join("missing.txt");
        assert!(TextSource::new(&missing).read().unwrap_err().to_string().contains("missing.txt"));
    }

    #[test]
    fn a_folder_is_its_text_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(TextSource::new(folder.path()).read().unwrap_err().to_string().contains(".txt"));
        for (name, text) in [("b.txt", "second"), ("a.utf8", "\u{feff}first"), ("c.bin", "\u{0}"), ("d.md", "third")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(TextSource::new(folder.path()).read().unwrap(), ["first", "second", "third"]);
    }

    #[test]
    fn pieces_are_whole_lines_and_lose_nothing() {
        let text = "ä line\nanother\n\nthe last, without an end";
        for bytes in 0..text.len() + 2 {
            let pieces = pieces(text, bytes);
            assert_eq!(pieces.concat(), text);
            for piece in &pieces[..pieces.len() - 1] {
                assert!(piece.ends_with('\n') && piece.len() > bytes, "{bytes}: {pieces:?}");
            }
        }
    }

    #[test]
    fn languages_get_equally_many_samples_whatever_their_length() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, letter: &str, lines: usize| {
            let path = folder.path().join(name);
            let text: String = (0..lines).map(|line| format!("{letter} line {line} of {lines}\n")).collect();
            fs::write(&path, text).unwrap();
            path
        };
        let source = |language: &str, path| TextSource { language: Some(language.to_owned()), paths: vec![path] };
        let sources = [
            source("en", write("en.txt", "e", 3000)),
            source("de", write("de.txt", "d", 300)),
            source("en", write("more.txt", "m", 100)),
        ];
        for add_bos in [false, true] {
            let model = tempfile::tempdir().unwrap();
            write_folder(model.path(), 258, &bytes_tokenizer(add_bos));
            let tokenizer = Tokenizer::open(model.path()).unwrap();
            let samples = sample(&sources, &tokenizer, 9, 32, 5).unwrap();
            let of = |language: &str| samples.iter().filter(|s| s.language.as_deref() == Some(language)).count();
            assert_eq!((of("en"), of("de"), samples.len()), (5, 5, 10));
            assert!(samples.iter().all(|s| s.ids.len() == 32 && (s.ids[0] == 0) == add_bos));
            assert_eq!(samples, sample(&sources, &tokenizer, 9, 32, 5).unwrap(), "the seed decides");
            assert_ne!(samples, sample(&sources, &tokenizer, 9, 32, 6).unwrap(), "the seed decides");
            // Without another language, the same samples of this one.
            let alone = sample(&sources[1..2], &tokenizer, 5, 32, 5).unwrap();
            assert_eq!(alone, samples[5..]);
            let message = sample(&sources, &tokenizer, 200, 256, 5).unwrap_err().to_string();
            assert!(message.contains("the de text") && message.contains("100"), "{message}");
        }
    }

    #[test]
    fn sentences_are_drawn_whole_or_cut_before_their_last_token() {
        let model = tempfile::tempdir().unwrap();
        write_folder(model.path(), 258, &bytes_tokenizer(true));
        let tokenizer = Tokenizer::open(model.path()).unwrap();
        let lines = |word: &str, count: usize| (0..count).map(|line| format!("{word} {line}")).collect::<Vec<_>>();
        let languages = [
            Corpus { language: Some("en".to_owned()), sentences: lines("line", 40) },
            Corpus { language: None, sentences: lines("x", 2) },
        ];
        let drawn = sentences(&languages, &tokenizer, 10, 6, 1).unwrap();
        assert_eq!(drawn.iter().filter(|sample| sample.language.is_some()).count(), 5);
        assert_eq!(drawn.len(), 7, "there are two sentences of the second");
        assert_eq!(drawn, sentences(&languages, &tokenizer, 10, 6, 1).unwrap());
        assert_ne!(drawn, sentences(&languages, &tokenizer, 10, 6, 2).unwrap());
        let whole = tokenizer.encode("line 17", true).unwrap();
        let one = [Corpus { language: None, sentences: vec!["line 17".to_owned()] }];
        assert_eq!(sentences(&one, &tokenizer, 1, 100, 0).unwrap()[0].ids, whole);
        let cut = sentences(&one, &tokenizer, 1, 4, 0).unwrap().remove(0).ids;
        assert_eq!(cut, [&whole[..3], &whole[whole.len() - 1..]].concat());
    }

    #[test]
    fn windows_do_not_overlap() {
        assert_eq!(windows(&[1, 2, 3, 4, 5], 2).collect::<Vec<_>>(), [[1, 2], [3, 4]]);
    }
}
