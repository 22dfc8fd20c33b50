/* The K nearest bank patches, from products: `selection.py` says how it is called.

`nearest`: of those that products of bytes leave in question. A row of products is read once. Of every eight values, a group, the
largest is kept, and of every eight groups again; K patches of different groups give a distance within which K lie for sure. Only
groups that may hold something nearer are looked into, and what is in question there is compared in float32. Made of torch's
operations, each of which writes and reads the whole product, the same took longer.

`nearest_upsampled`: products with features that were brought up from fewer places are interpolated from those of four such
places on the way, and never written. */

#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define GROUP 8
#define NEVER (-(1 << 29))  /* the product of what fills up the last group: near nothing */
#define MOST_IN_QUESTION 512  /* with more, one product with the whole bank finds the nearest sooner */
#define MOST_AT_ONCE 512  /* bank patches of one part of a bank */
#define BLOCK 32  /* of them, looked into only where one is near enough */
#define CORNERS 4

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

typedef struct {
    const int32_t *product;  /* (n, columns), the more the nearer */
    const int64_t *whole;    /* (n,), less twice the product a squared distance in steps */
    const double *slack;     /* (n,), how far its root may be from the true distance */
    const float *patches;    /* (n, features) */
    const float *bank;       /* (M, features) */
    const int64_t *near;     /* the row of the bank of every column */
    const int64_t *far;      /* (alone,) rows of the bank that are compared with every patch */
    float *squared;          /* (n, k), ascending */
    int64_t *rows;           /* (n, k) */
    uint8_t *sure;           /* (n,) */
    double step;
    Py_ssize_t columns, features, alone, k;
} Search;

typedef struct {
    int32_t *of_group, *of_larger, *best;
    int64_t *place, *question;
    float *distance;
} Scratch;

INLINE int32_t larger_of(int32_t a, int32_t b) { return a > b ? a : b; }

/* Of every group, whose values lie n apart, the largest: (8 n,) -> (n,). */
INLINE void largest(const int32_t *restrict values, int32_t *restrict out, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) {
        int32_t front = larger_of(larger_of(values[i], values[n + i]), larger_of(values[2 * n + i], values[3 * n + i]));
        int32_t back = larger_of(larger_of(values[4 * n + i], values[5 * n + i]), larger_of(values[6 * n + i], values[7 * n + i]));
        out[i] = larger_of(front, back);
    }
}

INLINE float squared_distance(const float *restrict one, const float *restrict other, Py_ssize_t features) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (Py_ssize_t i = 0; i < features; i++) {
        float difference = one[i] - other[i];
        total += difference * difference;
    }
    return total;
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

/* The column of the largest product, `value`, of a group of groups. */
INLINE Py_ssize_t column_of(const int32_t *values, const int32_t *of_group, int32_t value, int64_t place, Py_ssize_t groups) {
    Py_ssize_t larger = groups / GROUP, group = place;
    for (int i = 1; i < GROUP; i++)
        group = of_group[place + i * larger] == value ? place + i * larger : group;
    Py_ssize_t column = group;
    for (int i = 1; i < GROUP; i++)
        column = values[group + i * groups] == value ? group + i * groups : column;
    return column;
}

/* The least product that may be of one of the K nearest; or NaN where that cannot be told. */
INLINE double lowest_product(const Search *s, const Scratch *own, Py_ssize_t row) {
    const int32_t *values = s->product + row * s->columns;
    Py_ssize_t groups = s->columns / GROUP, count = groups / GROUP, k = s->k;
    for (Py_ssize_t i = 0; i < k; i++)
        own->best[i] = NEVER;
    for (Py_ssize_t g = 0; g < count; g++) {
        int32_t value = own->of_larger[g];
        if (value > own->best[k - 1]) {
            Py_ssize_t at = k - 1;
            for (; at > 0 && own->best[at - 1] < value; at--) {
                own->best[at] = own->best[at - 1];
                own->place[at] = own->place[at - 1];
            }
            own->best[at] = value;
            own->place[at] = g;
        }
    }
    if (own->best[k - 1] == NEVER)
        return NEVER + 1;  /* fewer than K groups: all are looked at */
    const float *patch = s->patches + row * s->features;
    for (Py_ssize_t i = 0; i < k; i++)
        own->question[i] = s->near[column_of(values, own->of_group, own->best[i], own->place[i], groups)];
    float farthest = 0;
    for (Py_ssize_t i = 0; i < k; i++) {
        float found = squared_distance(patch, s->bank + own->question[i] * s->features, s->features);
        farthest = found > farthest || isnan(found) ? found : farthest;
    }
    double reach = sqrt((double)farthest) / s->step + s->slack[row];
    double limit = reach * reach * (1 + 1e-5) + 2;  /* sums of float32; half of an odd number, rounded */
    double lowest = floor(((double)s->whole[row] - limit) / 2);
    return lowest < NEVER + 1 && limit < INFINITY ? NEVER + 1 : lowest;
}

FOR_EVERY_PROCESSOR
static void search(const Search *s, const Scratch *own, Py_ssize_t row) {
    const int32_t *values = s->product + row * s->columns;
    const float *patch = s->patches + row * s->features;
    Py_ssize_t groups = s->columns / GROUP, larger = groups / GROUP, k = s->k;
    largest(values, own->of_group, groups);
    largest(own->of_group, own->of_larger, larger);
    double least = lowest_product(s, own, row);
    s->sure[row] = 0;
    if (!(least > NEVER && least < INT32_MAX))
        return;
    int32_t lowest = (int32_t)least;
    Py_ssize_t count = 0;
    for (Py_ssize_t g = 0; g < larger; g++) {
        if (own->of_larger[g] < lowest)
            continue;
        for (Py_ssize_t group = g; group < groups; group += larger) {
            if (own->of_group[group] < lowest)
                continue;
            for (Py_ssize_t column = group; column < s->columns; column += groups) {
                if (values[column] < lowest)
                    continue;
                if (count == MOST_IN_QUESTION)
                    return;
                own->question[count++] = s->near[column];
            }
        }
    }
    for (Py_ssize_t i = 0; i < s->alone; i++)
        own->question[count++] = s->far[i];
    for (Py_ssize_t i = 0; i < count; i++)
        own->distance[i] = squared_distance(patch, s->bank + own->question[i] * s->features, s->features);
    float *squared = s->squared + row * k;
    int64_t *rows = s->rows + row * k;
    for (Py_ssize_t i = 0; i < k; i++)
        squared[i] = INFINITY;
    for (Py_ssize_t i = 0; i < count; i++)
        if (own->distance[i] < squared[k - 1])
            insert(squared, rows, k, own->distance[i], own->question[i]);
    s->sure[row] = squared[k - 1] < INFINITY;
}

/* One part of the rows; without memory none of them is sure. */
static void search_part(const Search *s, Py_ssize_t first, Py_ssize_t last) {
    Py_ssize_t groups = s->columns / GROUP, most = MOST_IN_QUESTION + s->alone;
    char *memory = malloc((size_t)((s->k + most) * 8 + (groups + groups / GROUP + s->k + most) * 4));
    if (memory == NULL) {
        for (Py_ssize_t row = first; row < last; row++)
            s->sure[row] = 0;
        return;
    }
    Scratch own;
    own.place = (int64_t *)memory;
    own.question = own.place + s->k;
    own.of_group = (int32_t *)(own.question + most);
    own.of_larger = own.of_group + groups;
    own.best = own.of_larger + groups / GROUP;
    own.distance = (float *)(own.best + s->k);
    for (Py_ssize_t row = first; row < last; row++)
        search(s, &own, row);
    free(memory);
}

static PyObject *nearest(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long at[10];
    Search s;
    Py_ssize_t count;
    int threads;
    if (!PyArg_ParseTuple(arguments, "(KKKKKKKKKK)d(nnnnn)i", &at[0], &at[1], &at[2], &at[3], &at[4], &at[5], &at[6], &at[7],
                          &at[8], &at[9], &s.step, &count, &s.columns, &s.features, &s.alone, &s.k, &threads))
        return NULL;
    s.product = (const int32_t *)(uintptr_t)at[0];
    s.whole = (const int64_t *)(uintptr_t)at[1];
    s.slack = (const double *)(uintptr_t)at[2];
    s.patches = (const float *)(uintptr_t)at[3];
    s.bank = (const float *)(uintptr_t)at[4];
    s.near = (const int64_t *)(uintptr_t)at[5];
    s.far = (const int64_t *)(uintptr_t)at[6];
    s.squared = (float *)(uintptr_t)at[7];
    s.rows = (int64_t *)(uintptr_t)at[8];
    s.sure = (uint8_t *)(uintptr_t)at[9];
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        search_part(&s, count * part / threads, count * (part + 1) / threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

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
static void search_upsampled(const Part *s, Py_ssize_t first, Py_ssize_t last) {
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

static PyObject *nearest_upsampled(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long at[6];
    Part s;
    Py_ssize_t count;
    int threads;
    if (!PyArg_ParseTuple(arguments, "(KKKKKK)(nnnn)i", &at[0], &at[1], &at[2], &at[3], &at[4], &at[5], &count, &s.n, &s.k,
                          &s.first, &threads))
        return NULL;
    s.coarse = (const float *)(uintptr_t)at[0];
    s.fine = (const float *)(uintptr_t)at[1];
    s.corners = (const int64_t *)(uintptr_t)at[2];
    s.weights = (const float *)(uintptr_t)at[3];
    s.squared = (float *)(uintptr_t)at[4];
    s.rows = (int64_t *)(uintptr_t)at[5];
    Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        search_upsampled(&s, count * part / threads, count * (part + 1) / threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"nearest", nearest, METH_VARARGS, "nearest(addresses, step, (rows, columns, features, far, k), threads): see selection.py"},
    {"nearest_upsampled", nearest_upsampled, METH_VARARGS, "nearest_upsampled(addresses, (rows, n, k, first), threads)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_selection", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__selection(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddIntMacro(module, GROUP) < 0 || PyModule_AddIntMacro(module, NEVER) < 0 ||
        PyModule_AddIntMacro(module, MOST_IN_QUESTION) < 0 || PyModule_AddIntMacro(module, MOST_AT_ONCE) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
