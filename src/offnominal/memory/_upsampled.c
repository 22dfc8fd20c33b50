/* The K nearest bank patches, of features that were brought up from fewer places: `upsampled.py` says how it is called.

Products with them are interpolated from those of four such places on the way, and never written. */

#include "_nearest.h"

#define MOST_AT_ONCE 512  /* bank patches of one part of a bank */
#define BLOCK 32  /* of them, looked into only where one is near enough */
#define CORNERS 4

typedef struct {
    const float *coarse;     /* (places, n) -2 q b of the features of the smaller map */
    const float *fine;       /* (N, n) |b|^2 - 2 q b of the others */
    const int64_t *corners;  /* (N, 4) places of the smaller map */
    const float *weights;    /* (N, 4) */
    float *squared;          /* (N, k), ascending */
    int64_t *rows;           /* (N, k) */
    Py_ssize_t n, k, first;
} Part;

/* Of one patch, the products with a part of the bank, and of every block the least. */
INLINE void interpolate(const Part *s, Py_ssize_t row, float *restrict values, float *restrict least) {
    const int64_t *corners = s->corners + CORNERS * row;
    const float *weights = s->weights + CORNERS * row, *fine = s->fine + row * s->n;
    const float *a = s->coarse + corners[0] * s->n, *b = s->coarse + corners[1] * s->n;
    const float *c = s->coarse + corners[2] * s->n, *d = s->coarse + corners[3] * s->n;
    float of_a = weights[0], of_b = weights[1], of_c = weights[2], of_d = weights[3];
    for (Py_ssize_t start = 0; start < s->n; start += BLOCK) {
        Py_ssize_t stop = start + BLOCK < s->n ? start + BLOCK : s->n;
        float smallest = INFINITY;
#pragma omp simd reduction(min : smallest)
        for (Py_ssize_t i = start; i < stop; i++) {
            float value = fine[i] + ((of_a * a[i] + of_b * b[i]) + (of_c * c[i] + of_d * d[i]));
            values[i] = value;
            smallest = value < smallest ? value : smallest;
        }
        least[start / BLOCK] = smallest;
    }
}

FOR_EVERY_PROCESSOR
static void search_part(const void *given, Py_ssize_t first, Py_ssize_t last) {
    const Part *s = given;
    float values[MOST_AT_ONCE], least[MOST_AT_ONCE / BLOCK + 1];
    Py_ssize_t k = s->k;
    for (Py_ssize_t row = first; row < last; row++) {
        float *squared = s->squared + row * k;
        int64_t *rows = s->rows + row * k;
        interpolate(s, row, values, least);
        /* With nothing found yet, those that are nearest to the patch before are near to this one, too. */
        float within = squared[k - 1];
        if (within == INFINITY && row > first) {
            within = -INFINITY;
            for (Py_ssize_t i = 0; i < k; i++) {
                int64_t at = rows[i - k] - s->first;
                float value = at >= 0 && at < s->n ? values[at] : INFINITY;
                within = value > within || isnan(value) ? value : within;
            }
        }
        for (Py_ssize_t start = 0; start < s->n; start += BLOCK) {
            if (!(least[start / BLOCK] <= within))
                continue;
            Py_ssize_t stop = start + BLOCK < s->n ? start + BLOCK : s->n;
            for (Py_ssize_t i = start; i < stop; i++)
                if (values[i] <= within && values[i] < squared[k - 1]) {
                    insert(squared, rows, k, values[i], s->first + i);
                    within = squared[k - 1] < within ? squared[k - 1] : within;
                }
        }
    }
}

static PyObject *nearest(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long at[6];
    Part s;
    Py_ssize_t count;
    int threads;
    if (!PyArg_ParseTuple(arguments, "(KKKKKK)(nnnn)i", &at[0], &at[1], &at[2], &at[3], &at[4], &at[5], &count, &s.n, &s.k,
                          &s.first, &threads))
        return NULL;
    s.coarse = POINTER(at[0]);
    s.fine = POINTER(at[1]);
    s.corners = POINTER(at[2]);
    s.weights = POINTER(at[3]);
    s.squared = POINTER(at[4]);
    s.rows = POINTER(at[5]);
    in_parts(search_part, &s, count, threads);
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
