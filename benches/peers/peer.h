// What a peer of the kernel benchmark is: a shared library with these functions. `benches/kernels/peer.rs` loads it.
//
// The product is y = x · Wᵀ, W [n, k], x [m, k], y [m, n], row-major and f32 outside; what W and x are inside is the
// peer's business, and quantizing x is part of its time. One thread calls all of it.

#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Whose kernels these are, and which version; for people to read.
const char * quench_peer_version(void);

// The kinds of weight this library was written for, in `*names`, and how many; a CPU may lack some of them.
int quench_peer_kinds(const char *** names);

// W [n, k] as `kind`, so many times that the copies take `footprint` bytes together: who goes round them finds none in
// a cache. NULL if the kind is unknown, does not take this shape, or has no kernel for this CPU.
void * quench_peer_new(const char * kind, int64_t n, int64_t k, const float * w, size_t footprint);

// How many copies there are.
int quench_peer_copies(const void * peer);

// Bytes that one product with one row reads of one copy.
size_t quench_peer_bytes(const void * peer);

// One product with copy `copy`, on `threads` threads. Returns y, valid until the next product of this peer, or NULL.
//
// An `x` of the same address and rows holds the same values for as long as the peer lives: what is only a change of
// container need not be made, and timed, again. A library whose threads are many from its first product on may take
// their number from RAYON_NUM_THREADS, which says the same.
const float * quench_peer_run(void * peer, int copy, int64_t m, const float * x, int threads);

// Puts threads to sleep that would otherwise wait for the next product in a loop. The next product wakes them.
void quench_peer_rest(void);

// Frees what `quench_peer_new` made.
void quench_peer_free(void * peer);

#ifdef __cplusplus
}
#endif
