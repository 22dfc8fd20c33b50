/* What both searches share: code for every processor, work on several threads, and the K nearest found so far. */

#include <Python.h>
#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 7
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Tensors come as addresses of their values. */
#define POINTER(address) ((void *)(uintptr_t)(address))

/* `work(given, first, last)` on every part of the rows, a thread each, without Python's lock. */
static void in_parts(void (*work)(const void *, Py_ssize_t, Py_ssize_t), const void *given, Py_ssize_t rows, int threads) {
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        work(given, rows * part / threads, rows * (part + 1) / threads);
    Py_END_ALLOW_THREADS
}

/* Put a value that is below the last of k, ascending, where it belongs; the last is gone. */
INLINE void insert(float *squared, int64_t *rows, Py_ssize_t k, float value, int64_t row) {
    Py_ssize_t at = k - 1;
    for (; at > 0 && squared[at - 1] > value; at--) {
        squared[at] = squared[at - 1];
        rows[at] = rows[at - 1];
    }
    squared[at] = value;
    rows[at] = row;
}
