#!/usr/bin/env bash
# Builds the peers of the kernel benchmark, each as one shared library with the functions of peer.h; and llama.cpp's own
# tools, for the comparison of files.
#
#   benches/peers/build.sh              all peers of the kernel benchmark that can be built here
#   benches/peers/build.sh ggml candle  these
#   benches/peers/build.sh llama        llama-quantize, llama-imatrix and llama-perplexity
#
# ggml     llama.cpp's, from the source package of llama-cpp-python
# ik       ik_llama.cpp's, from a git clone: QUENCH_IK=PATH (bare or not), or ik_llama.cpp beside the libraries
# candle   candle-core from its crate
# llama    the tools of the llama.cpp in the same source package, in llama/build/bin
#
# QUENCH_PEERS   where sources, builds and libraries go (default ~/.cache/quench-peers)
# JOBS           how many compilers run at once (default: one for each core)
#
# What is up to date is left alone. Needs g++, make, git, cargo and python3 with venv; cmake comes from pip where it is
# missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${QUENCH_PEERS:-$HOME/.cache/quench-peers}
jobs=${JOBS:-$(nproc)}
mkdir -p "$out"

# What the numbers in docs/results.md were measured against.
llama_cpp_python=0.3.36
llama_cpp_python_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
ik=${QUENCH_IK:-$out/ik_llama.cpp}

fail() {
    echo "$*" >&2
    exit 1
}

# A Python of our own, for pip.
python() {
    [[ -x $out/venv/bin/python ]] || python3 -m venv "$out/venv"
    "$out/venv/bin/python" "$@"
}

# cmake, the system's or pip's.
cmake_() {
    if command -v cmake >/dev/null; then
        cmake "$@"
    else
        [[ -x $out/venv/bin/cmake ]] || python -m pip install --quiet cmake
        "$out/venv/bin/cmake" "$@"
    fi
}

# logged NAME COMMAND...: what it prints goes to NAME.log; if it fails, the end of that is shown.
logged() {
    local log=$out/$1.log
    shift
    "$@" >"$log" 2>&1 || { tail "$log" >&2; fail "failed: $*; all of it is in $log"; }
}

# static_ggml NAME KEY OPTIONS...: compiles the ggml in $out/NAME/ggml for this CPU, once for each key.
static_ggml() {
    local name=$1 key=$2 tree=$out/$1
    shift 2
    # For its installation, which does not happen; source packages lack it.
    touch "$tree/ggml/ggml.pc.in"
    logged "$name-configure" cmake_ -S "$tree/ggml" -B "$tree/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_C_FLAGS=-w -DCMAKE_CXX_FLAGS=-w -DGGML_ALL_WARNINGS=OFF \
        -DGGML_NATIVE=ON -DGGML_CCACHE=OFF -DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF "$@"
    logged "$name-build" cmake_ --build "$tree/build" -j "$jobs" --target ggml
    echo "$key" >"$tree/key"
}

# shim NAME VERSION FLAGS...: links ggml.cpp with the static ggml of NAME. The library shows no symbol but ours, so that two
# ggmls can live in one process.
shim() {
    local name=$1 version=$2 tree=$out/$1 archives
    shift 2
    echo '{ global: quench_peer_*; local: *; };' >"$tree/symbols.map"
    mapfile -t archives < <(find "$tree/build" -name 'libggml*.a')
    logged "$name-link" g++ -O2 -std=c++17 -fPIC -shared -Wall -Wextra -DQUENCH_PEER_VERSION="\"$version\"" "$@" \
        -I"$tree/ggml/include" -I"$tree/ggml/src" "$here/ggml.cpp" -o "$tree/shim.so" \
        -Wl,--version-script="$tree/symbols.map" -Wl,-Bsymbolic -Wl,--no-undefined \
        -Wl,--start-group "${archives[@]}" -Wl,--end-group -lpthread -ldl -lm
    mv "$tree/shim.so" "$out/libquench_peer_$name.so"
    echo "$name: $out/libquench_peer_$name.so"
}

# built NAME KEY: whether static_ggml has finished with this key.
built() {
    [[ -f $out/$1/key && $(<"$out/$1/key") == "$2" ]]
}

compiler=$(g++ --version | head -1)

# llama_cpp FOLDER PATH: PATH of the llama.cpp in the source package, as FOLDER, made anew.
llama_cpp() {
    local package=llama_cpp_python-$llama_cpp_python
    [[ -f $out/$package.tar.gz ]] ||
        logged llama-download python -m pip download --no-deps --no-binary llama-cpp-python -d "$out" \
            "llama-cpp-python==$llama_cpp_python"
    echo "$llama_cpp_python_sha256  $out/$package.tar.gz" | sha256sum --check --quiet
    rm -rf "$1"
    mkdir -p "$1"
    tar -xzf "$out/$package.tar.gz" -C "$1" --strip-components=3 "$package/vendor/llama.cpp${2:+/$2}"
    # GCC 12 believes that loading a tile configuration reads 8 of its 64 bytes, drops what sets the others, and the
    # AMX kernels die of an illegal instruction.
    sed -i 's|^    _tile_loadconfig(&tc);|    __asm__ volatile("" : : "r"(\&tc) : "memory");\n&|' \
        "$1/ggml/src/ggml-cpu/amx/mmq.cpp"
}

build_ggml() {
    # Its own threads, which can be told to rest; OpenMP's can not.
    local options=(-DGGML_OPENMP=OFF -DGGML_LLAMAFILE=ON)
    local key="$llama_cpp_python, ${options[*]}, $compiler"
    if ! built ggml "$key"; then
        llama_cpp "$out/ggml" ggml
        static_ggml ggml "$key" "${options[@]}"
    fi
    shim ggml "ggml of llama-cpp-python $llama_cpp_python"
}

build_llama() {
    local options=(-DGGML_NATIVE=ON -DGGML_CCACHE=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_SERVER=OFF
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF)
    local key="$llama_cpp_python, ${options[*]}, $compiler" tree=$out/llama
    if ! built llama "$key"; then
        llama_cpp "$tree" ""
        # It ends without waiting for the thread that prints, and the last lines, the results, are lost now and then.
        sed -i 's|^    llama_backend_free();|    common_log_flush(common_log_main());\n&|' "$tree/tools/perplexity/perplexity.cpp"
        logged llama-configure cmake_ -S "$tree" -B "$tree/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
            -DCMAKE_C_FLAGS=-w -DCMAKE_CXX_FLAGS=-w "${options[@]}"
        logged llama-build cmake_ --build "$tree/build" -j "$jobs" \
            --target llama-quantize llama-imatrix llama-perplexity
        echo "$key" >"$tree/key"
    fi
    echo "llama: $tree/build/bin"
}

build_ik() {
    # OpenMP, since without it threads are started anew for each product; no attention, which is most of the compilation.
    local options=(-DGGML_OPENMP=ON -DCMAKE_CXX_STANDARD=20 -DGGML_IQK_FLASH_ATTENTION=OFF -DGGML_MAX_CONTEXTS=4096)
    local commit key tree=$out/ik
    if ! commit=$(git -C "$ik" rev-parse HEAD 2>/dev/null); then
        echo "ik: left out, no clone of ik_llama.cpp at $ik (QUENCH_IK names another place)"
        return
    fi
    key="$commit, ${options[*]}, $compiler"
    if ! built ik "$key"; then
        rm -rf "$tree"
        mkdir -p "$tree"
        git -C "$ik" archive --prefix=ggml/ "$commit:ggml" | tar -x -C "$tree"
        static_ggml ik "$key" "${options[@]}"
    fi
    shim ik "ik_llama.cpp ${commit:0:7}" -DQUENCH_PEER_IK -fopenmp
}

build_candle() {
    logged candle env CARGO_TARGET_DIR="$out/candle" RUSTFLAGS="-C target-cpu=native" \
        cargo build --locked --release --jobs "$jobs" --manifest-path "$here/candle/Cargo.toml"
    cp "$out/candle/release/libquench_peer_candle.so" "$out/libquench_peer_candle.so.new"
    mv "$out/libquench_peer_candle.so.new" "$out/libquench_peer_candle.so"
    echo "candle: $out/libquench_peer_candle.so"
}

[[ $# -gt 0 ]] || set -- ggml ik candle
for peer in "$@"; do
    declare -F "build_$peer" >/dev/null || fail "no peer '$peer'; there are: ggml ik candle llama"
    "build_$peer"
done
