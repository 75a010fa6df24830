// The product of ggml (or, with QUENCH_PEER_IK, of ik_llama.cpp's ggml) as a peer: peer.h says what each function does.
//
// A product is a graph of one node, made once for each copy and number of rows and computed as llama.cpp computes its
// graphs. Weights lie where llama.cpp would put them: in the plain buffer, in the one that interleaves rows for SIMD
// ("CPU_REPACK"), or in the one for tile registers ("AMX").

#include "peer.h"

#include "ggml.h"
#include "ggml-backend.h"
#ifdef QUENCH_PEER_IK
#include "iqk/iqk_quantize.h"
#else
#include "ggml-cpu.h"
#endif

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <thread>
#include <vector>

namespace {

// How the rows of a weight are laid out.
enum class Rows { Plain, Repacked, Tiles };

struct Kind {
    const char * name;
    ggml_type type;
    Rows rows;
};

#ifdef QUENCH_PEER_IK
const Kind KINDS[] = {
    {"f32", GGML_TYPE_F32, Rows::Plain},
    {"bf16", GGML_TYPE_BF16, Rows::Plain},
    {"bf16_r16", GGML_TYPE_BF16, Rows::Repacked},
    {"q4_0", GGML_TYPE_Q4_0, Rows::Plain},
    {"q4_0_r8", GGML_TYPE_Q4_0, Rows::Repacked},
    {"q4_k", GGML_TYPE_Q4_K, Rows::Plain},
    {"q4_k_r4", GGML_TYPE_Q4_K, Rows::Repacked},
    {"q8_0", GGML_TYPE_Q8_0, Rows::Plain},
    {"q8_0_r8", GGML_TYPE_Q8_0, Rows::Repacked},
    {"iq4_nl", GGML_TYPE_IQ4_NL, Rows::Plain},
    {"iq4_nl_r4", GGML_TYPE_IQ4_NL, Rows::Repacked},
    {"mxfp4", GGML_TYPE_MXFP4, Rows::Plain},
    {"mxfp4_r8", GGML_TYPE_MXFP4, Rows::Repacked},
};
#else
const Kind KINDS[] = {
    {"f32", GGML_TYPE_F32, Rows::Plain},
    {"f16", GGML_TYPE_F16, Rows::Plain},
    {"f16_amx", GGML_TYPE_F16, Rows::Tiles},
    {"bf16", GGML_TYPE_BF16, Rows::Plain},
    {"q4_0", GGML_TYPE_Q4_0, Rows::Plain},
    {"q4_0_repack", GGML_TYPE_Q4_0, Rows::Repacked},
    {"q4_0_amx", GGML_TYPE_Q4_0, Rows::Tiles},
    {"q4_k", GGML_TYPE_Q4_K, Rows::Plain},
    {"q4_k_repack", GGML_TYPE_Q4_K, Rows::Repacked},
    {"q4_k_amx", GGML_TYPE_Q4_K, Rows::Tiles},
    {"q8_0", GGML_TYPE_Q8_0, Rows::Plain},
    {"q8_0_repack", GGML_TYPE_Q8_0, Rows::Repacked},
    {"q8_0_amx", GGML_TYPE_Q8_0, Rows::Tiles},
    {"iq4_nl", GGML_TYPE_IQ4_NL, Rows::Plain},
    {"iq4_nl_repack", GGML_TYPE_IQ4_NL, Rows::Repacked},
    {"mxfp4", GGML_TYPE_MXFP4, Rows::Plain},
    {"mxfp4_repack", GGML_TYPE_MXFP4, Rows::Repacked},
};
#endif

struct FreeContext {
    void operator()(ggml_context * context) const { ggml_free(context); }
};
using Context = std::unique_ptr<ggml_context, FreeContext>;

struct FreeBuffer {
    void operator()(ggml_backend_buffer * buffer) const { ggml_backend_buffer_free(buffer); }
};
using Buffer = std::unique_ptr<ggml_backend_buffer, FreeBuffer>;

// A graph of one product has two leaves and a node.
constexpr size_t GRAPH = 4;

// A context for `tensors` and `graphs`: what they are, not their data.
Context context_for(size_t tensors, size_t graphs) {
    const size_t bytes = tensors * ggml_tensor_overhead() + graphs * ggml_graph_overhead_custom(GRAPH, false);
    return Context(ggml_init({bytes, nullptr, true}));
}

// Where weights of `rows` live; NULL if this CPU has no such place.
ggml_backend_buffer_type_t buffer_type(Rows rows) {
#ifndef QUENCH_PEER_IK
    if (rows != Rows::Plain) {
        const char * name = rows == Rows::Tiles ? "AMX" : "CPU_REPACK";
        ggml_backend_reg_t cpu = ggml_backend_cpu_reg();
        auto extra = (ggml_backend_dev_get_extra_bufts_t)
            ggml_backend_reg_get_proc_address(cpu, "ggml_backend_dev_get_extra_bufts");
        auto * found = extra ? extra(ggml_backend_reg_dev_get(cpu, 0)) : nullptr;
        for (; found && *found; found++) {
            if (!strcmp(ggml_backend_buft_name(*found), name)) {
                return *found;
            }
        }
        return nullptr;
    }
#else
    (void) rows;  // its repacked rows are types of their own, in the plain buffer
#endif
    return ggml_backend_cpu_buffer_type();
}

// W [n, k] in `type`, rows in plain order, on all cores.
std::vector<uint8_t> quantize(ggml_type type, int64_t n, int64_t k, const float * w) {
    const size_t row = ggml_row_size(type, k);
    std::vector<uint8_t> quantized(n * row);
    ggml_quantize_init(type);
    const int64_t parts = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t first = n * part / parts, rows = n * (part + 1) / parts - first;
        threads.emplace_back([=, &quantized] {
#ifdef QUENCH_PEER_IK
            ggml_quantize_chunk(type, w, quantized.data(), first * k, rows, k, nullptr, nullptr);
#else
            ggml_quantize_chunk(type, w, quantized.data(), first * k, rows, k, nullptr);
#endif
        });
    }
    for (auto & thread : threads) {
        thread.join();
    }
    return quantized;
}

// The products with m rows: one graph for each copy, all from `x` to `y`.
struct Batch {
    Context context;
    ggml_tensor * x;
    std::vector<float> y;
    std::vector<ggml_cgraph *> graphs;
    std::vector<uint8_t> work;
};

struct Peer {
    int64_t n, k;
    Context context;
    Buffer buffer;
    size_t bytes;
    std::vector<ggml_tensor *> copies;
    std::map<int64_t, Batch> batches;  // by rows
};

#ifndef QUENCH_PEER_IK
// The threads of all peers here. As in llama.cpp they wait for the next product in a loop, for a while.
struct Pool {
    ggml_threadpool * pool = nullptr;
    int threads = 0;

    ggml_threadpool * of(int wanted) {
        if (threads != wanted) {
            ggml_threadpool_params params = ggml_threadpool_params_default(wanted);
            if (pool) {
                ggml_threadpool_free(pool);
            }
            pool = ggml_threadpool_new(&params);
            threads = wanted;
        }
        return pool;
    }
};
Pool pool;
#endif

bool supported(Rows rows, ggml_tensor * w) {
#ifdef QUENCH_PEER_IK
    return rows == Rows::Plain || iqk_repacked_type(w) != (int) w->type;
#else
    (void) rows;
    Context context = context_for(2, 0);
    ggml_tensor * x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, w->ne[0], 1);
    ggml_tensor * y = ggml_mul_mat(context.get(), w, x);
    return ggml_backend_dev_supports_op(ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0), y);
#endif
}

Batch & batch_of(Peer & peer, int64_t m) {
    Batch & batch = peer.batches[m];
    if (!batch.context) {
        const size_t copies = peer.copies.size();
        batch.context = context_for(copies + 1, copies);
        batch.x = ggml_new_tensor_2d(batch.context.get(), GGML_TYPE_F32, peer.k, m);
        batch.y.resize(m * peer.n);
        for (ggml_tensor * w : peer.copies) {
            ggml_tensor * y = ggml_mul_mat(batch.context.get(), w, batch.x);
            y->data = batch.y.data();
            ggml_cgraph * graph = ggml_new_graph_custom(batch.context.get(), GRAPH, false);
            ggml_build_forward_expand(graph, y);
#ifdef QUENCH_PEER_IK
            graph->n_batch = m;  // its barriers spin for large batches
#endif
            batch.graphs.push_back(graph);
        }
    }
    return batch;
}

}  // namespace

extern "C" {

#ifdef QUENCH_PEER_IK
// Attention is left out of the build, but not its names.
void iqk_flash_attn_noalibi(void) {
    abort();
}
void iqk_fa_work_buffer_size(void) {
    abort();
}
#endif

const char * quench_peer_version(void) {
    return QUENCH_PEER_VERSION;
}

int quench_peer_kinds(const char *** names) {
    static std::vector<const char *> found;
    if (found.empty()) {
        for (const Kind & kind : KINDS) {
            found.push_back(kind.name);
        }
    }
    *names = found.data();
    return found.size();
}

void * quench_peer_new(const char * name, int64_t n, int64_t k, const float * w, size_t footprint) {
    const Kind * kind = std::find_if(std::begin(KINDS), std::end(KINDS), [&](const Kind & kind) {
        return !strcmp(kind.name, name);
    });
    if (kind == std::end(KINDS) || k % ggml_blck_size(kind->type) != 0) {
        return nullptr;
    }
#ifndef QUENCH_PEER_IK
    // It tells of each weight that it lays out anew.
    ggml_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_WARN) {
            fputs(text, stderr);
        }
    }, nullptr);
#endif
    ggml_backend_buffer_type_t place = buffer_type(kind->rows);
    if (!place) {
        return nullptr;
    }
    auto peer = std::make_unique<Peer>();
    peer->n = n;
    peer->k = k;
    const size_t most = footprint / (n * ggml_row_size(kind->type, k)) + 1;
    peer->context = context_for(most, 0);
    do {
        peer->copies.push_back(ggml_new_tensor_2d(peer->context.get(), kind->type, k, n));
        peer->bytes = ggml_backend_buft_get_alloc_size(place, peer->copies[0]);
    } while (peer->copies.size() * peer->bytes < footprint);
    ggml_tensor * first = peer->copies[0];
    peer->buffer = Buffer(ggml_backend_alloc_ctx_tensors_from_buft(peer->context.get(), place));
    if (!peer->buffer || !supported(kind->rows, first)) {
        return nullptr;
    }
    const std::vector<uint8_t> quantized = quantize(kind->type, n, k, w);
    ggml_backend_tensor_set(first, quantized.data(), 0, quantized.size());
#ifdef QUENCH_PEER_IK
    if (kind->rows == Rows::Repacked) {
        iqk_repack_tensor(first);
    }
#endif
    for (ggml_tensor * copy : peer->copies) {
        if (copy != first) {
            memcpy(copy->data, first->data, peer->bytes);
            copy->type = first->type;
        }
    }
    return peer.release();
}

int quench_peer_copies(const void * peer) {
    return static_cast<const Peer *>(peer)->copies.size();
}

size_t quench_peer_bytes(const void * peer) {
    return static_cast<const Peer *>(peer)->bytes;
}

const float * quench_peer_run(void * handle, int copy, int64_t m, const float * x, int threads) {
    Peer & peer = *static_cast<Peer *>(handle);
    Batch & batch = batch_of(peer, m);
    ggml_cgraph * graph = batch.graphs.at(copy);
#ifdef QUENCH_PEER_IK
    ggml_cplan plan = ggml_graph_plan(graph, threads);
#else
    ggml_cplan plan = ggml_graph_plan(graph, threads, pool.of(threads));
#endif
    batch.work.resize(std::max(batch.work.size(), plan.work_size));
    plan.work_data = batch.work.data();
    batch.x->data = const_cast<float *>(x);  // it is only read
    return ggml_graph_compute(graph, &plan) == GGML_STATUS_SUCCESS ? batch.y.data() : nullptr;
}

void quench_peer_rest(void) {
#ifndef QUENCH_PEER_IK
    if (pool.pool) {
        ggml_threadpool_pause(pool.pool);
    }
#endif
    // OpenMP's threads of the other one go to sleep by themselves.
}

void quench_peer_free(void * peer) {
    delete static_cast<Peer *>(peer);
}

}  // extern "C"
