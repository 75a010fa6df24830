//! What can be wrong with a checkpoint on disk.

use std::io;
use std::path::PathBuf;

use quench_format::FormatError;
use quench_format::rans::RansError;
use safetensors::Dtype;

use crate::dialect::Unwritable;
use crate::gguf::GgufError;
use crate::lsq::LsqError;

/// A checkpoint that cannot be read or written; every variant names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused to read.
    #[error("cannot read `{}`: {source}", file.display())]
    Read {
        /// The file or folder asked for.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The operating system refused to write, for example because the disk is full.
    #[error(
        "cannot write `{}`: {source}; nothing half-written was left under that name, make room or choose another folder and run again",
        file.display()
    )]
    Write {
        /// The file or folder under its final name.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },

    /// The folder has no weights in a layout known here.
    #[error(
        "no checkpoint in `{}`: expected model.safetensors, or model.safetensors.index.json and its shards, or model.lsq, or a PyTorch file (pytorch_model.bin, .pth, .th)",
        folder.display()
    )]
    NoCheckpoint {
        /// The folder asked for.
        folder: PathBuf,
    },

    /// The weights are pickled, and this build has no reader for that.
    #[error(
        "`{}` is a pickled checkpoint, which this build of Quench does not read: convert it with a build that has the feature `pytorch` (`quench convert FILE model.safetensors --to safetensors`), or save the model as safetensors (in Python, `model.save_pretrained(folder)`), and try again",
        file.display()
    )]
    Pickled {
        /// The pickled file found.
        file: PathBuf,
    },

    /// The folder has several PyTorch files of any name.
    #[error(
        "`{}` is one of {count} PyTorch files in its folder: name the one that is meant, or leave only it there",
        first.display()
    )]
    SeveralPickled {
        /// How many.
        count: usize,
        /// The first by name.
        first: PathBuf,
    },

    /// The index names a shard that is not in the folder.
    #[error(
        "shard `{}` is missing ({missing} of {shards} shards named by `{}` are): download it again",
        file.display(),
        index.display()
    )]
    MissingShard {
        /// The first missing shard.
        file: PathBuf,
        /// The index that names it.
        index: PathBuf,
        /// How many shards are missing.
        missing: usize,
        /// How many shards the index names.
        shards: usize,
    },

    /// The file is a Git LFS pointer in place of the file itself.
    #[error("`{}` is a Git LFS pointer, not the weights: run `git lfs pull` in its folder", file.display())]
    LfsPointer {
        /// The pointer file.
        file: PathBuf,
    },

    /// The file ends before its last tensor does.
    #[error(
        "`{}` is truncated: its header asks for {expected} bytes, the file has {found}; download or save it again",
        file.display()
    )]
    Truncated {
        /// The short file.
        file: PathBuf,
        /// The length that the header promises, in bytes.
        expected: u64,
        /// The length found, in bytes.
        found: u64,
    },

    /// The file goes on after its last tensor.
    #[error(
        "`{}` does not match its header: {expected} bytes expected, {found} found; download or save it again",
        file.display()
    )]
    TooLong {
        /// The long file.
        file: PathBuf,
        /// The length that the header promises, in bytes.
        expected: u64,
        /// The length found, in bytes.
        found: u64,
    },

    /// The file does not start with a safetensors header that makes sense.
    #[error("`{}` is not a valid safetensors file: {reason}; download or save it again", file.display())]
    Header {
        /// The file read.
        file: PathBuf,
        /// What is wrong with the header.
        reason: String,
    },

    /// `model.safetensors.index.json` cannot be understood.
    #[error("`{}` is not a valid shard index: {reason}; download or save it again", file.display())]
    Index {
        /// The index file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The index says that a shard holds a tensor, and it does not.
    #[error(
        "`{}` says that tensor `{tensor}` is in `{}`, which does not hold it: the files are not of one checkpoint, download them again",
        index.display(),
        shard.display()
    )]
    IndexDisagrees {
        /// The index file.
        index: PathBuf,
        /// The tensor looked for.
        tensor: String,
        /// The shard that lacks it.
        shard: PathBuf,
    },

    /// A name occurs twice, in one file or in two.
    #[error(
        "tensor `{tensor}` occurs twice, in `{}` and in `{}`: remove the file that does not belong to this checkpoint",
        first.display(),
        second.display()
    )]
    DuplicateTensor {
        /// The name.
        tensor: String,
        /// Where it was first.
        first: PathBuf,
        /// Where it was again; the same file if that holds both.
        second: PathBuf,
    },

    /// Two shards carry different values for a string that must be the same.
    #[error(
        "`{}` and `{}` disagree about `{key}`: they are shards of two different checkpoints",
        first.display(),
        second.display()
    )]
    MetadataDisagrees {
        /// The metadata key.
        key: String,
        /// The first shard.
        first: PathBuf,
        /// The shard that says something else.
        second: PathBuf,
    },

    /// No tensor of that name.
    #[error("no tensor `{tensor}` in `{}`", path.display())]
    MissingTensor {
        /// The checkpoint searched.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },

    /// A tensor has elements of another type than the reader can use.
    #[error("tensor `{tensor}` in `{}` has elements of type {found}, expected {expected}", file.display())]
    Dtype {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The types that would do.
        expected: String,
        /// The type found.
        found: Dtype,
    },

    /// A tensor has another shape than the rest of the checkpoint says.
    #[error("tensor `{tensor}` in `{}` has shape {found:?}, expected {expected:?}", file.display())]
    Shape {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the layer asks for.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },

    /// A weight is NaN or infinite.
    #[error(
        "tensor `{tensor}` in `{}` holds {value} at element {index}: the checkpoint is damaged or its training diverged, use another one",
        file.display()
    )]
    NonFinite {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Position in row-major order.
        index: usize,
        /// NaN, inf or -inf.
        value: f32,
    },

    /// The bytes of a tensor are not those that were written.
    #[error(
        "tensor `{tensor}` in `{}` is damaged: its SHA-256 is not the one recorded when it was written; copy or quantize it again",
        file.display()
    )]
    Damaged {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// The file was written in a version of the dialect that is not known here.
    #[error(
        "`{}` is in version {found} of Quench's format, this Quench reads versions {} and {}: use the Quench that wrote it, or a newer one",
        file.display(),
        crate::manifest::FORMAT_VERSION,
        crate::manifest::CODED_VERSION
    )]
    Version {
        /// The file read.
        file: PathBuf,
        /// The version it names.
        found: u64,
    },

    /// The `quench` entry of a file's metadata contradicts itself or the file.
    #[error("the `quench` metadata of `{}` is not valid: {reason}; copy or quantize the model again", file.display())]
    Manifest {
        /// The file read.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// Entropy-coded codes cannot be decoded.
    #[error("tensor `{tensor}` in `{}` is not valid: {source}; copy or quantize it again", file.display())]
    Coded {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with the stream.
        source: RansError,
    },

    /// A PyTorch file is refused; nothing in it was run.
    #[error("`{}` is not a PyTorch file of tensors: {reason}; save its `state_dict()` alone", file.display())]
    Pickle {
        /// The file.
        file: PathBuf,
        /// What was found instead.
        reason: String,
    },

    /// An `.lsq` file is refused.
    #[error("cannot read `{}`: {source}", file.display())]
    Lsq {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: LsqError,
    },

    /// A GGUF file is refused, or cannot be written.
    #[error("GGUF file `{}`: {source}", file.display())]
    Gguf {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },

    /// Somebody asked to stop while a checkpoint was written.
    #[error("writing `{}` was stopped; nothing half-written was left under that name", file.display())]
    Stopped {
        /// The file or folder under its final name.
        file: PathBuf,
    },

    /// A layer in the dialect of another tool is not what that dialect says.
    #[error("tensor `{tensor}` in `{}` is not valid: {reason}; the checkpoint is damaged, or of a dialect that is not known here", path.display())]
    Foreign {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor at fault.
        tensor: String,
        /// What is wrong.
        reason: String,
    },

    /// A packed layer cannot be spelled in another dialect as it is.
    #[error("layer `{layer}` cannot be written as it is: {source}; quantize the model for that dialect")]
    Unwritable {
        /// The layer.
        layer: String,
        /// What the dialect lacks.
        source: Unwritable,
    },

    /// The parts of a packed matrix do not fit together.
    #[error("tensor `{tensor}` in `{}` is not valid: {source}", file.display())]
    Packed {
        /// The file that holds the tensor.
        file: PathBuf,
        /// The tensor at fault.
        tensor: String,
        /// The rule that it breaks.
        source: FormatError,
    },

    /// The bytes given for a tensor do not fill its shape.
    #[error("tensor `{tensor}` was given {found} bytes, its type and shape take {expected}")]
    Size {
        /// The tensor to be written.
        tensor: String,
        /// Bytes that shape and type take.
        expected: u64,
        /// Bytes given.
        found: u64,
    },

    /// A tensor has no such axis, or one of another length than the edit is made for.
    #[error("{}: tensor `{tensor}` has shape {shape:?}, which an edit of another length does not fit", file.display())]
    Edit {
        /// The folder or file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// A header would be longer than a reader accepts.
    #[error("the header of `{}` would take {bytes} bytes, above the {limit} that safetensors allows: use smaller shards", file.display())]
    HeaderTooLong {
        /// The file that was to be written.
        file: PathBuf,
        /// Its header's length.
        bytes: u64,
        /// The longest that readers accept.
        limit: u64,
    },

    /// The output folder exists.
    #[error("output folder `{}` exists: use --force to replace it, or choose another", folder.display())]
    TargetExists {
        /// The folder.
        folder: PathBuf,
    },

    /// The output folder exists and is not something that may be replaced, even when forced.
    #[error(
        "`{}` is not a checkpoint, and --force replaces nothing else: choose another output folder, or empty this one",
        folder.display()
    )]
    NotReplaceable {
        /// The folder.
        folder: PathBuf,
    },

    /// An earlier run was interrupted and left its work.
    #[error(
        "an interrupted run left `{}`: use --resume to go on from it, or --force to start again",
        folder.display()
    )]
    Interrupted {
        /// The folder it left.
        folder: PathBuf,
    },

    /// Another process is at work on the same output.
    #[error("another process is writing `{}`: wait for it, or choose another output folder", folder.display())]
    Busy {
        /// The output folder.
        folder: PathBuf,
    },

    /// The output path has no last part beside which work could be kept.
    #[error("`{}` cannot be an output folder: name one, such as `{}/quantized`", folder.display(), folder.display())]
    Unnameable {
        /// The path given.
        folder: PathBuf,
    },
}
