//! Layers in the dialects of other tools, made to break their readers.
