/* The K nearest bank patches, of those that products of bytes leave in question: `screening.py` says how it is called.

A few patches at a time are rounded to whole steps and multiplied with the bank; their products stay in the processor's cache. Of
every four columns, a group, the largest product is kept, and of a run of groups again, a larger group; K patches of different
groups give a distance within which K lie for sure. Only groups that may hold something nearer are looked into, and what is in
question there is compared in float32. */

#include "_nearest.h"
#include <float.h>
#include <stdlib.h>
#include <string.h>

#define PANEL 64          /* columns that are multiplied together */
#define GROUP 4           /* columns of a group; they lie MEMBERS apart in a panel */
#define MEMBERS (PANEL / GROUP)
#define RUNS 5            /* of panels; the groups at the same place of a run are looked at together first */
#define MOST_LARGER (RUNS * MEMBERS)
#define AT_ONCE 4         /* patches that are multiplied together */
#define BLOCK 8           /* patches whose products are looked at before those of others are formed */
#define PARTS 16          /* of a sum of float32 */
#define STEPS 127
#define NEVER (-(1 << 29))  /* the product of what fills up the last panel: near nothing */
#define MOST_IN_QUESTION 512  /* with more, one product with the whole bank finds the nearest sooner */

_Static_assert(BLOCK % AT_ONCE == 0, "no patch is multiplied that has no room");

typedef struct {
    const int8_t *bank;    /* (width / 4, PANEL, 4) whole steps */
    const int32_t *start;  /* (PANEL,) what the products are added to */
    Py_ssize_t width, columns;
} Panel;

/* Of AT_ONCE patches, given as steps and 128 each, to `out` in rows of columns and `largest` in rows of columns / GROUP. */
typedef void (*Multiply)(const Panel *, const uint8_t *steps, int32_t *out, int32_t *largest);

static void multiply_one_by_one(const Panel *p, const uint8_t *steps, int32_t *out, int32_t *largest) {
    for (int row = 0; row < AT_ONCE; row++, steps += p->width, out += p->columns, largest += p->columns / GROUP) {
        memcpy(out, p->start, PANEL * sizeof *out);
        for (Py_ssize_t at = 0; at < p->width; at++)
            for (int column = 0; column < PANEL; column++)
                out[column] += steps[at] * p->bank[at / 4 * 4 * PANEL + 4 * column + at % 4];
        for (int member = 0; member < MEMBERS; member++) {
            largest[member] = out[member];
            for (int column = member; column < PANEL; column += MEMBERS)
                largest[member] = out[column] > largest[member] ? out[column] : largest[member];
        }
    }
}

#if defined(__x86_64__) && ((!defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 19))
#define OF_BYTES
#include <immintrin.h>

#define NAME multiply_512
#define TARGET __attribute__((target("avx512f,avx512vnni")))
#define VECTOR __m512i
#define LANES 16
#define ROWS 4
#define LOAD(from) _mm512_loadu_si512(from)
#define STORE(to, vector) _mm512_storeu_si512(to, vector)
#define SPREAD(number) _mm512_set1_epi32(number)
#define LARGER(one, other) _mm512_max_epi32(one, other)
#define ADD_PRODUCTS(sums, unsigned_bytes, bytes) _mm512_dpbusd_epi32(sums, unsigned_bytes, bytes)
#include "_bytes.h"

#define NAME multiply_256
#define TARGET __attribute__((target("avx2,avxvnni")))
#define VECTOR __m256i
#define LANES 8
#define ROWS 2
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))
#define STORE(to, vector) _mm256_storeu_si256((__m256i *)(to), vector)
#define SPREAD(number) _mm256_set1_epi32(number)
#define LARGER(one, other) _mm256_max_epi32(one, other)
#define ADD_PRODUCTS(sums, unsigned_bytes, bytes) _mm256_dpbusd_avx_epi32(sums, unsigned_bytes, bytes)
#include "_bytes.h"
#endif

typedef struct {
    const float *patches;  /* (n, features) */
    const float *bank;     /* (M, features) */
    const float *mean;     /* (features,) */
    const int8_t *panels;  /* (columns / PANEL, width / 4, PANEL, 4) the bank about its mean, in whole steps */
    const int32_t *start;  /* (columns,) */
    const int64_t *near;   /* (columns,) the row of the bank of every column */
    const int64_t *far;    /* (alone,) rows of the bank that are compared with every patch */
    float *squared;        /* (n, k), ascending */
    int64_t *rows;         /* (n, k) */
    uint8_t *sure;         /* (n,) */
    double step, error;    /* length of a step; how long what rounding took from a patch of the bank may be, in steps */
    Py_ssize_t columns, features, width, alone, k;
    Multiply multiply;
} Search;

typedef struct {
    int32_t *product, *of_group, *of_larger, *group;
    int64_t *question;
    float *distance;
    uint8_t *steps;
} Scratch;

/* What is known of a patch in whole steps: its squared length, and how far the root of a squared distance may be off. */
typedef struct {
    double square, slack;
} Rounded;

/* What float32 sums of so many may be off, as a factor. */
INLINE double of_sums(Py_ssize_t features) { return 1 + features * (double)FLT_EPSILON; }

INLINE Rounded rounded(const Search *s, const float *patch, uint8_t *steps) {
    const float *mean = s->mean;
    float inverse = (float)(1 / s->step), lost = 0, length = 0;
    int32_t square = 0;
#pragma omp simd reduction(+ : lost, length, square)
    for (Py_ssize_t i = 0; i < s->features; i++) {
        float exact = (patch[i] - mean[i]) * inverse, whole = rintf(exact);
        whole = whole < STEPS ? whole : STEPS;  /* also where it is not a number */
        whole = whole > -STEPS ? whole : -STEPS;
        lost += (exact - whole) * (exact - whole);
        length += exact * exact;
        square += (int32_t)whole * (int32_t)whole;
        steps[i] = (uint8_t)((int32_t)whole + STEPS + 1);
    }
    /* What the subtraction and the scaling themselves round is a share of the length. */
    return (Rounded){square, (sqrt(lost) + 4 * (double)FLT_EPSILON * sqrt(length)) * of_sums(s->features) + s->error};
}

/* Adds squared differences from `start` on to so many parts of a sum; returns where fewer than these are left. */
INLINE Py_ssize_t add_squares(float *restrict part, const float *restrict one, const float *restrict other, Py_ssize_t start,
                              Py_ssize_t features, int parts) {
    for (; start + parts <= features; start += parts)
        for (int i = 0; i < parts; i++) {
            float difference = one[start + i] - other[start + i];
            part[i] += difference * difference;
        }
    return start;
}

/* In PARTS sums, which are added up two by two: in one each number would wait for the one before. */
INLINE float squared_distance(const float *restrict one, const float *restrict other, Py_ssize_t features) {
    float part[PARTS] = {0};
    Py_ssize_t start = add_squares(part, one, other, 0, features, PARTS);
    start = add_squares(part, one, other, start, features, PARTS / 2);
    add_squares(part, one, other, start, features, 1);
#pragma GCC unroll 4
    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            part[i] += part[i + half];
    return part[0];
}

INLINE void fetch(const float *row, Py_ssize_t features) {
#if defined(__GNUC__)
    for (Py_ssize_t i = 0; i < features; i += 16)
        __builtin_prefetch(row + i);
#endif
}

/* Larger groups: member m of run r is number r MEMBERS + m, and its groups are m, MEMBERS + m, ... of the panels of the run. */
INLINE Py_ssize_t panels_of_run(const Search *s) { return (s->columns / PANEL + RUNS - 1) / RUNS; }

INLINE Py_ssize_t first_group(const Search *s, Py_ssize_t larger) {
    return larger / MEMBERS * panels_of_run(s) * MEMBERS + larger % MEMBERS;
}

INLINE Py_ssize_t end_of_run(const Search *s, Py_ssize_t group) {
    Py_ssize_t end = group + panels_of_run(s) * MEMBERS, groups = s->columns / GROUP;
    return end < groups ? end : groups;
}

INLINE Py_ssize_t first_column(Py_ssize_t group) { return group / MEMBERS * PANEL + group % MEMBERS; }

/* The largest product of every larger group; returns how many there are. */
INLINE Py_ssize_t larger_groups(const Search *s, const int32_t *restrict of_group, int32_t *restrict of_larger) {
    Py_ssize_t count = 0, groups = s->columns / GROUP, step = panels_of_run(s) * MEMBERS;
    for (Py_ssize_t start = 0; start < groups; start += step, count += MEMBERS) {
        memcpy(of_larger + count, of_group + start, MEMBERS * sizeof *of_larger);
        for (Py_ssize_t panel = start + MEMBERS; panel < end_of_run(s, start); panel += MEMBERS)
            for (int member = 0; member < MEMBERS; member++) {
                int32_t value = of_group[panel + member], most = of_larger[count + member];
                of_larger[count + member] = value > most ? value : most;
            }
    }
    return count;
}

/* The column of the largest product, `value`, of a larger group. */
INLINE Py_ssize_t column_of(const Search *s, const int32_t *product, const int32_t *of_group, int32_t value, Py_ssize_t larger) {
    Py_ssize_t group = first_group(s, larger);
    while (of_group[group] != value)
        group += MEMBERS;
    Py_ssize_t column = first_column(group);
    while (product[column] != value)
        column += MEMBERS;
    return column;
}

/* The least product that may be of one of the K nearest; or what is no product where that cannot be told. */
INLINE double lowest_product(const Search *s, const Scratch *own, const int32_t *product, const int32_t *of_group,
                             Py_ssize_t larger, const float *patch, Rounded known) {
    int32_t above[MOST_LARGER];  /* how many are larger: of at least K it is fewer than K */
    for (Py_ssize_t start = 0; start < larger; start += MEMBERS) {
        int32_t count[MEMBERS] = {0};
        for (Py_ssize_t other = 0; other < larger; other++)
            for (int member = 0; member < MEMBERS; member++)
                count[member] += own->of_larger[other] > own->of_larger[start + member];
        memcpy(above + start, count, sizeof count);
    }
    Py_ssize_t count = 0;
    for (Py_ssize_t g = 0; g < larger && count < s->k; g++)
        if (above[g] < s->k && own->of_larger[g] > NEVER) {
            own->question[count] = s->near[column_of(s, product, of_group, own->of_larger[g], g)];
            fetch(s->bank + own->question[count++] * s->features, s->features);
        }
    if (count < s->k)
        return NEVER + 1;  /* fewer than K groups: all are looked at */
    float farthest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        float found = squared_distance(patch, s->bank + own->question[i] * s->features, s->features);
        farthest = found > farthest || isnan(found) ? found : farthest;
    }
    double unseen = s->features * (double)FLT_MIN;  /* what squares that are too small for float32 may add up to */
    double reach = sqrt(farthest + unseen) / s->step + known.slack;
    double limit = reach * reach * of_sums(s->features) + 2;  /* half of an odd number is rounded */
    double lowest = floor((known.square - limit) / 2);
    return lowest < NEVER + 1 && limit < INFINITY ? NEVER + 1 : lowest;
}

/* Groups that hold a product that is not below `lowest`; returns how many there are. What is put at the end of a list counts only
where it belongs there: that takes less time than a branch, which is hard to foresee. */
INLINE Py_ssize_t groups_of(const Search *s, const Scratch *own, const int32_t *of_group, Py_ssize_t larger, int32_t lowest) {
    int32_t some[MOST_LARGER + 1];
    Py_ssize_t count = 0, found = 0;
    for (Py_ssize_t g = 0; g < larger; g++) {
        some[count] = (int32_t)g;
        count += own->of_larger[g] >= lowest;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t group = first_group(s, some[i]), end = end_of_run(s, group);
        for (; group < end; group += MEMBERS) {
            own->group[found] = (int32_t)group;
            found += of_group[group] >= lowest;
        }
    }
    return found;
}

/* One patch, whose products are known. */
INLINE void search(const Search *s, const Scratch *own, const int32_t *product, const int32_t *of_group, Rounded known,
                   Py_ssize_t row) {
    const float *patch = s->patches + row * s->features;
    Py_ssize_t k = s->k, larger = larger_groups(s, of_group, own->of_larger);
    double least = lowest_product(s, own, product, of_group, larger, patch, known);
    s->sure[row] = 0;
    if (!(least > NEVER && least < INT32_MAX))
        return;
    int32_t lowest = (int32_t)least;
    Py_ssize_t count = 0, in_question = groups_of(s, own, of_group, larger, lowest);
    for (Py_ssize_t i = 0; i < in_question; i++) {
        Py_ssize_t column = first_column(own->group[i]);
        if (count > MOST_IN_QUESTION)
            return;
        for (int other = 0; other < GROUP; other++, column += MEMBERS) {
            own->question[count] = s->near[column];
            count += product[column] >= lowest;
        }
    }
    if (count > MOST_IN_QUESTION)
        return;
    for (Py_ssize_t i = 0; i < count; i++)
        fetch(s->bank + own->question[i] * s->features, s->features);
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

/* At most BLOCK patches. */
FOR_EVERY_PROCESSOR
static void search_block(const Search *s, const Scratch *own, Py_ssize_t first, Py_ssize_t last) {
    Py_ssize_t groups = s->columns / GROUP;
    Rounded known[BLOCK];
    for (Py_ssize_t row = first; row < last; row++)
        known[row - first] = rounded(s, s->patches + row * s->features, own->steps + (row - first) * s->width);
    for (Py_ssize_t column = 0; column < s->columns; column += PANEL) {
        Panel panel = {s->panels + column * s->width, s->start + column, s->width, s->columns};
        for (Py_ssize_t row = 0; row < last - first; row += AT_ONCE)
            s->multiply(&panel, own->steps + row * s->width, own->product + row * s->columns + column,
                        own->of_group + row * groups + column / GROUP);
    }
    for (Py_ssize_t row = first; row < last; row++)
        search(s, own, own->product + (row - first) * s->columns, own->of_group + (row - first) * groups, known[row - first],
               row);
}

/* One part of the rows; without memory none of them is sure. */
static void search_part(const void *given, Py_ssize_t first, Py_ssize_t last) {
    const Search *s = given;
    Py_ssize_t groups = s->columns / GROUP, most = MOST_IN_QUESTION + GROUP + 1 + s->alone;
    size_t numbers = (size_t)(BLOCK * (s->columns + groups) + MOST_LARGER + groups + 1 + most);
    char *memory = calloc((size_t)most * 8 + numbers * 4 + (size_t)(BLOCK * s->width), 1);
    if (memory == NULL) {
        for (Py_ssize_t row = first; row < last; row++)
            s->sure[row] = 0;
        return;
    }
    Scratch own;
    own.question = (int64_t *)memory;
    own.product = (int32_t *)(own.question + most);
    own.of_group = own.product + BLOCK * s->columns;
    own.of_larger = own.of_group + BLOCK * groups;
    own.group = own.of_larger + MOST_LARGER;
    own.distance = (float *)(own.group + groups + 1);
    own.steps = (uint8_t *)(own.distance + most);
    for (Py_ssize_t row = first; row < last; row += BLOCK)
        search_block(s, &own, row, row + BLOCK < last ? row + BLOCK : last);
    free(memory);
}

static Multiply of_width(int bits) {
    switch (bits) {
    case 0:
        return multiply_one_by_one;
#ifdef OF_BYTES
    case 256:
        return __builtin_cpu_supports("avxvnni") ? multiply_256 : NULL;
    case 512:
        return __builtin_cpu_supports("avx512vnni") ? multiply_512 : NULL;
#endif
    default:
        return NULL;
    }
}

static PyObject *multiplies(PyObject *module, PyObject *bits) {
    (void)module;
    long asked = PyLong_AsLong(bits);
    if (asked == -1 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(of_width((int)asked) != NULL);
}

static PyObject *nearest(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long at[10];
    Search s;
    Py_ssize_t count;
    int bits, threads;
    if (!PyArg_ParseTuple(arguments, "(KKKKKKKKKK)(dd)(nnnnnn)ii", &at[0], &at[1], &at[2], &at[3], &at[4], &at[5], &at[6], &at[7],
                          &at[8], &at[9], &s.step, &s.error, &count, &s.columns, &s.features, &s.width, &s.alone, &s.k, &bits,
                          &threads))
        return NULL;
    s.multiply = of_width(bits);
    if (s.multiply == NULL)
        return PyErr_Format(PyExc_ValueError, "this processor does not multiply bytes in registers of %d bits", bits);
    s.patches = POINTER(at[0]);
    s.bank = POINTER(at[1]);
    s.mean = POINTER(at[2]);
    s.panels = POINTER(at[3]);
    s.start = POINTER(at[4]);
    s.near = POINTER(at[5]);
    s.far = POINTER(at[6]);
    s.squared = POINTER(at[7]);
    s.rows = POINTER(at[8]);
    s.sure = POINTER(at[9]);
    in_parts(search_part, &s, count, threads);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"nearest", nearest, METH_VARARGS, "nearest(addresses, (step, error), sizes, bits, threads): see screening.py"},
    {"multiplies", multiplies, METH_O, "Whether this processor multiplies bytes in registers of so many bits; 0: one by one."},
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
