/* Exact K nearest bank patches of patches with upsampled features; called by `upsampled.py`.

The products of upsampled features are interpolated from four positions of the coarse map when needed, and never stored. */

#include "_nearest.h"

#define MOST_AT_ONCE 512   /* bank patches in one part of the bank */
#define BLOCK 32           /* bank patches that are skipped together if none is near enough */
#define CORNERS 4

typedef struct {
    const float *coarse;     /* (positions, n) -2 q b of the upsampled features, on the coarse map */
    const float *fine;       /* (N, n) |b|^2 - 2 q b of the other features */
    const int64_t *corners;  /* (N, 4) positions on the coarse map */
    const float *weights;    /* (N, 4) */
    float *squared;          /* (N, k), ascending */
    int64_t *rows;           /* (N, k) */
    Py_ssize_t n, k, first;
} Part;

/* Compute the products of one patch with a part of the bank, and the least of every block. */
INLINE void interpolate(const Part *s, Py_ssize_t row, float *restrict values, float *restrict least) {
    const int64_t *corners = s->corners + CORNERS * row;
    const float *weights = s->weights + CORNERS * row, *fine = s->fine + row * s->n;
    const float *a = s->coarse + corners[0] * s->n, *b = s->coarse + corners[1] * s->n;
    const float *c = s->coarse + corners[2] * s->n, *d = s->coarse + corners[3] * s->n;
    float weight_a = weights[0], weight_b = weights[1], weight_c = weights[2], weight_d = weights[3];
    for (Py_ssize_t start = 0; start < s->n; start += BLOCK) {
        Py_ssize_t stop = start + BLOCK < s->n ? start + BLOCK : s->n;
        float smallest = INFINITY;
#pragma omp simd reduction(min : smallest)
        for (Py_ssize_t i = start; i < stop; i++) {
            float value = fine[i] + ((weight_a * a[i] + weight_b * b[i]) + (weight_c * c[i] + weight_d * d[i]));
            values[i] = value;
            smallest = value < smallest ? value : smallest;
        }
        least[start / BLOCK] = smallest;
    }
}

MULTIVERSION
static void search_rows(const void *context, Py_ssize_t first, Py_ssize_t last) {
    const Part *s = context;
    float values[MOST_AT_ONCE], least[MOST_AT_ONCE / BLOCK + 1];
    Py_ssize_t k = s->k;
    for (Py_ssize_t row = first; row < last; row++) {
        float *squared = s->squared + row * k;
        int64_t *rows = s->rows + row * k;
        interpolate(s, row, values, least);
        /* In the first part, the neighbours of the previous patch give a limit: adjacent patches have similar neighbours. */
        float limit = squared[k - 1];
        if (limit == INFINITY && row > first) {
            limit = -INFINITY;
            for (Py_ssize_t i = 0; i < k; i++) {
                int64_t at = rows[i - k] - s->first;
                float value = at >= 0 && at < s->n ? values[at] : INFINITY;
                limit = value > limit || isnan(value) ? value : limit;
            }
        }
        for (Py_ssize_t start = 0; start < s->n; start += BLOCK) {
            if (!(least[start / BLOCK] <= limit))
                continue;
            Py_ssize_t stop = start + BLOCK < s->n ? start + BLOCK : s->n;
            for (Py_ssize_t i = start; i < stop; i++)
                if (values[i] <= limit && values[i] < squared[k - 1]) {
                    insert(squared, rows, k, values[i], s->first + i);
                    limit = squared[k - 1] < limit ? squared[k - 1] : limit;
                }
        }
    }
}

static PyObject *nearest(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long address[6];
    Part s;
    Py_ssize_t count;
    int threads;
    if (!PyArg_ParseTuple(arguments, "(KKKKKK)(nnnn)i", &address[0], &address[1], &address[2], &address[3], &address[4],
                          &address[5], &count, &s.n, &s.k, &s.first, &threads))
        return NULL;
    s.coarse = POINTER(address[0]);
    s.fine = POINTER(address[1]);
    s.corners = POINTER(address[2]);
    s.weights = POINTER(address[3]);
    s.squared = POINTER(address[4]);
    s.rows = POINTER(address[5]);
    parallel_rows(search_rows, &s, count, threads);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"nearest", nearest, METH_VARARGS, "nearest(addresses, (rows, n, k, first), threads)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_upsampled", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__upsampled(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddIntMacro(module, MOST_AT_ONCE) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
