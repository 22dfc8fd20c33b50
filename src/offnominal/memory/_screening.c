/* Exact K nearest bank patches by candidate pruning with int8 dot products; called by `pruning.py`.

A few patches at a time are quantised to int8 and multiplied with the bank; the products stay in the processor's cache. Four
columns of the product form a group, and a run of groups forms a supergroup; of each the largest product is kept. The distances
to the best patches of K different supergroups bound the distance to the K nearest. Only groups that may hold a nearer patch are
searched, and their candidates are compared in float32. */

#include "_nearest.h"
#include "_multiply.h"
#include <float.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 5                         /* the panels form this many runs; a supergroup holds one group of each panel of a run */
#define MAX_SUPERGROUPS (RUNS * PANEL_GROUPS)
#define BLOCK 8                        /* patches whose products are in memory at a time */
#define PARTIAL_SUMS 16                /* of a float32 sum, so that additions do not wait for one another */
#define STEPS 127                      /* largest quantised value */
#define NEVER (-(1 << 29))             /* product of padding columns: below every product of a patch */
#define MOST_IN_QUESTION 512           /* candidates of a patch; with more, a product with the whole bank is faster */

_Static_assert(BLOCK % BATCH == 0, "every batch lies within a block");

typedef struct {
    const float *patches;      /* (n, features) */
    const float *bank;         /* (M, features) */
    const float *mean;         /* (features,) */
    const int8_t *panels;      /* (columns / PANEL, width / 4, PANEL, 4) quantised bank, centred on its mean */
    const int32_t *start;      /* (columns,) */
    const int64_t *bank_row;   /* (columns,) row of the bank in each column */
    const int64_t *outliers;   /* (outlier_count,) rows of the bank that are compared with every patch */
    float *squared;            /* (n, k), ascending */
    int64_t *rows;             /* (n, k) */
    uint8_t *exact;            /* (n,) whether the result of a patch is exact; otherwise it is meaningless */
    double scale, bank_error;  /* quantisation step; largest length of a bank patch's rounding error, in steps */
    Py_ssize_t columns, features, width, outlier_count, k;
    Multiply multiply;
} Search;

typedef struct {
    int32_t *product, *group_max, *supergroup_max, *group;
    int64_t *candidate;
    float *distance;
    uint8_t *codes;
} Scratch;

/* Squared length of a quantised patch, and the largest error of the root of a squared distance, in steps. */
typedef struct {
    double square, slack;
} Quantised;

/* Bound of the relative rounding error of a float32 sum over the features, as a factor. */
INLINE double sum_rounding(Py_ssize_t features) { return 1 + features * (double)FLT_EPSILON; }

INLINE Quantised quantise(const Search *s, const float *patch, uint8_t *codes) {
    const float *mean = s->mean;
    float inverse = (float)(1 / s->scale), lost = 0, length = 0;
    int32_t square = 0;
#pragma omp simd reduction(+ : lost, length, square)
    for (Py_ssize_t i = 0; i < s->features; i++) {
        float value = (patch[i] - mean[i]) * inverse, whole = rintf(value);
        whole = whole < STEPS ? whole : STEPS;  /* NaN becomes STEPS */
        whole = whole > -STEPS ? whole : -STEPS;
        lost += (value - whole) * (value - whole);
        length += value * value;
        square += (int32_t)whole * (int32_t)whole;
        codes[i] = (uint8_t)((int32_t)whole + STEPS + 1);
    }
    /* The subtraction and the scaling round in proportion to the length. */
    return (Quantised){square,
                       (sqrt(lost) + 4 * (double)FLT_EPSILON * sqrt(length)) * sum_rounding(s->features) + s->bank_error};
}

/* Add squared differences from `start` on to `sums` partial sums; return where fewer than that many features are left. */
INLINE Py_ssize_t add_squares(float *restrict sum, const float *restrict a, const float *restrict b, Py_ssize_t start,
                              Py_ssize_t features, int sums) {
    for (; start + sums <= features; start += sums)
        for (int i = 0; i < sums; i++) {
            float difference = a[start + i] - b[start + i];
            sum[i] += difference * difference;
        }
    return start;
}

INLINE float squared_distance(const float *restrict a, const float *restrict b, Py_ssize_t features) {
    float sum[PARTIAL_SUMS] = {0};
    Py_ssize_t start = add_squares(sum, a, b, 0, features, PARTIAL_SUMS);
    start = add_squares(sum, a, b, start, features, PARTIAL_SUMS / 2);
    add_squares(sum, a, b, start, features, 1);
#pragma GCC unroll 4
    for (int half = PARTIAL_SUMS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return sum[0];
}

INLINE void prefetch(const float *row, Py_ssize_t features) {
#if defined(__GNUC__)
    for (Py_ssize_t i = 0; i < features; i += 16)
        __builtin_prefetch(row + i);
#endif
}

/* Supergroup r PANEL_GROUPS + g holds the groups g, PANEL_GROUPS + g, ... of the panels of run r. */
INLINE Py_ssize_t panels_per_run(const Search *s) { return (s->columns / PANEL + RUNS - 1) / RUNS; }

INLINE Py_ssize_t first_group(const Search *s, Py_ssize_t supergroup) {
    return supergroup / PANEL_GROUPS * panels_per_run(s) * PANEL_GROUPS + supergroup % PANEL_GROUPS;
}

INLINE Py_ssize_t end_of_run(const Search *s, Py_ssize_t group) {
    Py_ssize_t end = group + panels_per_run(s) * PANEL_GROUPS, groups = s->columns / GROUP;
    return end < groups ? end : groups;
}

INLINE Py_ssize_t first_column(Py_ssize_t group) { return group / PANEL_GROUPS * PANEL + group % PANEL_GROUPS; }

/* Compute the largest product of every supergroup; return the number of supergroups. */
INLINE Py_ssize_t reduce_supergroups(const Search *s, const int32_t *restrict group_max, int32_t *restrict supergroup_max) {
    Py_ssize_t count = 0, groups = s->columns / GROUP, step = panels_per_run(s) * PANEL_GROUPS;
    for (Py_ssize_t start = 0; start < groups; start += step, count += PANEL_GROUPS) {
        memcpy(supergroup_max + count, group_max + start, PANEL_GROUPS * sizeof *supergroup_max);
        for (Py_ssize_t panel = start + PANEL_GROUPS; panel < end_of_run(s, start); panel += PANEL_GROUPS)
            for (int g = 0; g < PANEL_GROUPS; g++) {
                int32_t value = group_max[panel + g], largest = supergroup_max[count + g];
                supergroup_max[count + g] = value > largest ? value : largest;
            }
    }
    return count;
}

/* The column of a supergroup's largest product, `value`. */
INLINE Py_ssize_t column_of(const Search *s, const int32_t *product, const int32_t *group_max, int32_t value,
                            Py_ssize_t supergroup) {
    Py_ssize_t group = first_group(s, supergroup);
    while (group_max[group] != value)
        group += PANEL_GROUPS;
    Py_ssize_t column = first_column(group);
    while (product[column] != value)
        column += PANEL_GROUPS;
    return column;
}

/* Lower bound of the products of the K nearest patches; not above NEVER if no bound exists. */
INLINE double lowest_product(const Search *s, const Scratch *scratch, const int32_t *product, const int32_t *group_max,
                             Py_ssize_t supergroups, const float *patch, Quantised quantised) {
    int32_t above[MAX_SUPERGROUPS];  /* supergroups with a larger maximum; fewer than K for at least K of them */
    for (Py_ssize_t start = 0; start < supergroups; start += PANEL_GROUPS) {
        int32_t count[PANEL_GROUPS] = {0};
        for (Py_ssize_t other = 0; other < supergroups; other++)
            for (int g = 0; g < PANEL_GROUPS; g++)
                count[g] += scratch->supergroup_max[other] > scratch->supergroup_max[start + g];
        memcpy(above + start, count, sizeof count);
    }
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < supergroups && count < s->k; i++)
        if (above[i] < s->k && scratch->supergroup_max[i] > NEVER) {
            scratch->candidate[count] = s->bank_row[column_of(s, product, group_max, scratch->supergroup_max[i], i)];
            prefetch(s->bank + scratch->candidate[count++] * s->features, s->features);
        }
    if (count < s->k)
        return NEVER + 1;  /* fewer than K supergroups: all columns are candidates */
    float farthest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        float distance = squared_distance(patch, s->bank + scratch->candidate[i] * s->features, s->features);
        farthest = distance > farthest || isnan(distance) ? distance : farthest;
    }
    double underflow = s->features * (double)FLT_MIN;  /* largest sum of squares that are too small for float32 */
    double reach = sqrt(farthest + underflow) / s->scale + quantised.slack;
    double limit = reach * reach * sum_rounding(s->features) + 2;  /* halves of odd numbers are rounded */
    double lowest = floor((quantised.square - limit) / 2);
    return lowest < NEVER + 1 && limit < INFINITY ? NEVER + 1 : lowest;
}

/* List the groups with a product of at least `lowest`; return their number. Each entry is written first and counted only if it
belongs to the list, which avoids branches that are hard to predict. */
INLINE Py_ssize_t candidate_groups(const Search *s, const Scratch *scratch, const int32_t *group_max, Py_ssize_t supergroups,
                                   int32_t lowest) {
    int32_t kept[MAX_SUPERGROUPS + 1];
    Py_ssize_t count = 0, groups = 0;
    for (Py_ssize_t i = 0; i < supergroups; i++) {
        kept[count] = (int32_t)i;
        count += scratch->supergroup_max[i] >= lowest;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t group = first_group(s, kept[i]), end = end_of_run(s, group);
        for (; group < end; group += PANEL_GROUPS) {
            scratch->group[groups] = (int32_t)group;
            groups += group_max[group] >= lowest;
        }
    }
    return groups;
}

/* Search the neighbours of one patch, given its products. */
INLINE void search(const Search *s, const Scratch *scratch, const int32_t *product, const int32_t *group_max,
                   Quantised quantised, Py_ssize_t row) {
    const float *patch = s->patches + row * s->features;
    Py_ssize_t k = s->k, supergroups = reduce_supergroups(s, group_max, scratch->supergroup_max);
    double least = lowest_product(s, scratch, product, group_max, supergroups, patch, quantised);
    s->exact[row] = 0;
    if (!(least > NEVER && least < INT32_MAX))
        return;
    int32_t lowest = (int32_t)least;
    Py_ssize_t count = 0, groups = candidate_groups(s, scratch, group_max, supergroups, lowest);
    for (Py_ssize_t i = 0; i < groups; i++) {
        Py_ssize_t column = first_column(scratch->group[i]);
        if (count > MOST_IN_QUESTION)
            return;
        for (int other = 0; other < GROUP; other++, column += PANEL_GROUPS) {
            scratch->candidate[count] = s->bank_row[column];
            count += product[column] >= lowest;
        }
    }
    if (count > MOST_IN_QUESTION)
        return;
    for (Py_ssize_t i = 0; i < count; i++)
        prefetch(s->bank + scratch->candidate[i] * s->features, s->features);
    for (Py_ssize_t i = 0; i < s->outlier_count; i++)
        scratch->candidate[count++] = s->outliers[i];
    for (Py_ssize_t i = 0; i < count; i++)
        scratch->distance[i] = squared_distance(patch, s->bank + scratch->candidate[i] * s->features, s->features);
    float *squared = s->squared + row * k;
    int64_t *rows = s->rows + row * k;
    for (Py_ssize_t i = 0; i < k; i++)
        squared[i] = INFINITY;
    for (Py_ssize_t i = 0; i < count; i++)
        if (scratch->distance[i] < squared[k - 1])
            insert(squared, rows, k, scratch->distance[i], scratch->candidate[i]);
    s->exact[row] = squared[k - 1] < INFINITY;
}

/* Search the rows from `first` to `last`, at most BLOCK. */
MULTIVERSION
static void search_block(const Search *s, const Scratch *scratch, Py_ssize_t first, Py_ssize_t last) {
    Py_ssize_t groups = s->columns / GROUP;
    Quantised quantised[BLOCK];
    for (Py_ssize_t row = first; row < last; row++)
        quantised[row - first] = quantise(s, s->patches + row * s->features, scratch->codes + (row - first) * s->width);
    for (Py_ssize_t column = 0; column < s->columns; column += PANEL) {
        Panel panel = {s->panels + column * s->width, s->start + column, s->width, s->columns};
        for (Py_ssize_t row = 0; row < last - first; row += BATCH)
            s->multiply(&panel, scratch->codes + row * s->width, scratch->product + row * s->columns + column,
                        scratch->group_max + row * groups + column / GROUP);
    }
    for (Py_ssize_t row = first; row < last; row++)
        search(s, scratch, scratch->product + (row - first) * s->columns, scratch->group_max + (row - first) * groups,
               quantised[row - first], row);
}

/* Search a share of the rows; without memory none of them is exact. */
static void search_rows(const void *context, Py_ssize_t first, Py_ssize_t last) {
    const Search *s = context;
    Py_ssize_t groups = s->columns / GROUP, candidates = MOST_IN_QUESTION + GROUP + 1 + s->outlier_count;
    size_t numbers = (size_t)(BLOCK * (s->columns + groups) + MAX_SUPERGROUPS + groups + 1 + candidates);
    char *memory = calloc((size_t)candidates * 8 + numbers * 4 + (size_t)(BLOCK * s->width), 1);
    if (memory == NULL) {
        for (Py_ssize_t row = first; row < last; row++)
            s->exact[row] = 0;
        return;
    }
    Scratch scratch;
    scratch.candidate = (int64_t *)memory;
    scratch.product = (int32_t *)(scratch.candidate + candidates);
    scratch.group_max = scratch.product + BLOCK * s->columns;
    scratch.supergroup_max = scratch.group_max + BLOCK * groups;
    scratch.group = scratch.supergroup_max + MAX_SUPERGROUPS;
    scratch.distance = (float *)(scratch.group + groups + 1);
    scratch.codes = (uint8_t *)(scratch.distance + candidates);
    for (Py_ssize_t row = first; row < last; row += BLOCK)
        search_block(s, &scratch, row, row + BLOCK < last ? row + BLOCK : last);
    free(memory);
}

static PyObject *multiplies(PyObject *module, PyObject *bits) {
    (void)module;
    long width = PyLong_AsLong(bits);
    if (width == -1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(multiply_with((int)width) != NULL);
}

static PyObject *nearest(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long address[10];
    Search s;
    Py_ssize_t count;
    int bits, threads;
    if (!PyArg_ParseTuple(arguments, "(KKKKKKKKKK)(dd)(nnnnnn)ii", &address[0], &address[1], &address[2], &address[3],
                          &address[4], &address[5], &address[6], &address[7], &address[8], &address[9], &s.scale, &s.bank_error,
                          &count, &s.columns, &s.features, &s.width, &s.outlier_count, &s.k, &bits, &threads))
        return NULL;
    s.multiply = multiply_with(bits);
    if (s.multiply == NULL)
        return PyErr_Format(PyExc_ValueError, "this processor has no int8 dot products in registers of %d bits", bits);
    s.patches = POINTER(address[0]);
    s.bank = POINTER(address[1]);
    s.mean = POINTER(address[2]);
    s.panels = POINTER(address[3]);
    s.start = POINTER(address[4]);
    s.bank_row = POINTER(address[5]);
    s.outliers = POINTER(address[6]);
    s.squared = POINTER(address[7]);
    s.rows = POINTER(address[8]);
    s.exact = POINTER(address[9]);
    parallel_rows(search_rows, &s, count, threads);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"nearest", nearest, METH_VARARGS, "nearest(addresses, scale_and_error, sizes, bits, threads): see pruning.py"},
    {"multiplies", multiplies, METH_O, "Whether this processor has int8 dot products in registers of this width; 0: scalar."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_screening", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__screening(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddIntMacro(module, PANEL) < 0 || PyModule_AddIntMacro(module, NEVER) < 0 ||
        PyModule_AddIntMacro(module, STEPS) < 0 || PyModule_AddIntMacro(module, MOST_IN_QUESTION) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
