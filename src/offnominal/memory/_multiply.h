/* Int8 dot products of patches with a panel of the bank, for each instruction set. */

#include <stdint.h>
#include <string.h>

#define PANEL 64                       /* bank columns that are multiplied together */
#define GROUP 4                        /* columns of a group; they lie PANEL_GROUPS apart in their panel */
#define PANEL_GROUPS (PANEL / GROUP)
#define BATCH 4                        /* patches that are multiplied together */

typedef struct {
    const int8_t *bank;    /* (width / 4, PANEL, 4) quantised patches */
    const int32_t *start;  /* (PANEL,) initial values of the products */
    Py_ssize_t width, columns;
} Panel;

/* Multiplies BATCH patches, given as quantised values plus 128, with a panel. Writes products to `out`, in rows of `columns`,
and the maximum of each group to `group_max`, in rows of `columns / GROUP`. */
typedef void (*Multiply)(const Panel *, const uint8_t *codes, int32_t *out, int32_t *group_max);

static void multiply_scalar(const Panel *p, const uint8_t *codes, int32_t *out, int32_t *group_max) {
    for (int row = 0; row < BATCH; row++, codes += p->width, out += p->columns, group_max += p->columns / GROUP) {
        memcpy(out, p->start, PANEL * sizeof *out);
        for (Py_ssize_t i = 0; i < p->width; i++)
            for (int column = 0; column < PANEL; column++)
                out[column] += codes[i] * p->bank[i / 4 * 4 * PANEL + 4 * column + i % 4];
        for (int g = 0; g < PANEL_GROUPS; g++) {
            group_max[g] = out[g];
            for (int column = g; column < PANEL; column += PANEL_GROUPS)
                group_max[g] = out[column] > group_max[g] ? out[column] : group_max[g];
        }
    }
}

#if defined(__x86_64__) && ((!defined(__clang__) && __GNUC__ >= 11) || (defined(__clang__) && __clang_major__ >= 19))
#define HAS_INT8_DOT
#include <immintrin.h>

#define NAME multiply_512
#define TARGET __attribute__((target("avx512f,avx512vnni")))
#define VECTOR __m512i
#define LANES 16
#define ROWS 4
#define LOAD(from) _mm512_loadu_si512(from)
#define STORE(to, vector) _mm512_storeu_si512(to, vector)
#define BROADCAST(number) _mm512_set1_epi32(number)
#define MAX(a, b) _mm512_max_epi32(a, b)
#define ADD_DOT(sums, unsigned_bytes, bytes) _mm512_dpbusd_epi32(sums, unsigned_bytes, bytes)
#include "_bytes.h"

#define NAME multiply_256
#define TARGET __attribute__((target("avx2,avxvnni")))
#define VECTOR __m256i
#define LANES 8
#define ROWS 2
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))
#define STORE(to, vector) _mm256_storeu_si256((__m256i *)(to), vector)
#define BROADCAST(number) _mm256_set1_epi32(number)
#define MAX(a, b) _mm256_max_epi32(a, b)
#define ADD_DOT(sums, unsigned_bytes, bytes) _mm256_dpbusd_avx_epi32(sums, unsigned_bytes, bytes)
#include "_bytes.h"
#endif

/* The implementation for registers of `bits`, 0 for scalar code; NULL if this processor has none. */
static Multiply multiply_with(int bits) {
    switch (bits) {
    case 0:
        return multiply_scalar;
#ifdef HAS_INT8_DOT
    case 256:
        return __builtin_cpu_supports("avxvnni") ? multiply_256 : NULL;
    case 512:
        return __builtin_cpu_supports("avx512vnni") ? multiply_512 : NULL;
#endif
    default:
        return NULL;
    }
}
