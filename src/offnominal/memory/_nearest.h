/* Shared by both searches: one build for all processors, work on several threads, and the list of the K nearest. */

#include <Python.h>
#include <math.h>
#include <stdint.h>

/* Compile a function once for each instruction set; the processor chooses at load time. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 7
#define MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MULTIVERSION
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Tensors are passed as addresses of their values. */
#define POINTER(address) ((void *)(uintptr_t)(address))

/* Call `work(context, first, last)` for one share of the rows on each thread, without Python's lock. */
static void parallel_rows(void (*work)(const void *, Py_ssize_t, Py_ssize_t), const void *context, Py_ssize_t rows,
                          int threads) {
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        work(context, rows * part / threads, rows * (part + 1) / threads);
    Py_END_ALLOW_THREADS
}

/* Insert a value that is below the last of k ascending values, and drop the last. */
INLINE void insert(float *squared, int64_t *rows, Py_ssize_t k, float value, int64_t row) {
    Py_ssize_t at = k - 1;
    for (; at > 0 && squared[at - 1] > value; at--) {
        squared[at] = squared[at - 1];
        rows[at] = rows[at - 1];
    }
    squared[at] = value;
    rows[at] = row;
}
