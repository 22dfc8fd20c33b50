/* Int8 dot products of BATCH patches with one panel of the bank. Included once for each instruction set, which defines NAME,
TARGET, VECTOR, LANES (32-bit lanes of a vector), ROWS (patches at once, so that their sums stay in registers), LOAD, STORE,
BROADCAST (one number to all lanes), MAX and ADD_DOT (adds the dot product of the four bytes in each lane). */


TARGET static void NAME(const Panel *p, const uint8_t *codes, int32_t *out, int32_t *group_max) {
    for (int row = 0; row < BATCH; row += ROWS) {
        for (int lane = 0; lane < PANEL_GROUPS; lane += LANES) {
            const int8_t *bank = p->bank + 4 * lane;
            VECTOR sums[ROWS][GROUP];
#pragma GCC unroll 4
            for (int g = 0; g < GROUP; g++)
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++)
                    sums[r][g] = LOAD(p->start + PANEL_GROUPS * g + lane);
            for (Py_ssize_t at = 0; at < p->width; at += 4, bank += 4 * PANEL) {
                VECTOR columns[GROUP];
#pragma GCC unroll 4
                for (int g = 0; g < GROUP; g++)
                    columns[g] = LOAD(bank + 4 * PANEL_GROUPS * g);
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    int32_t bytes;
                    memcpy(&bytes, codes + (row + r) * p->width + at, 4);
                    VECTOR patch = BROADCAST(bytes);
#pragma GCC unroll 4
                    for (int g = 0; g < GROUP; g++)
                        sums[r][g] = ADD_DOT(sums[r][g], patch, columns[g]);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
                for (int g = 0; g < GROUP; g++)
                    STORE(out + (row + r) * p->columns + PANEL_GROUPS * g + lane, sums[r][g]);
                VECTOR low = MAX(sums[r][0], sums[r][1]), high = MAX(sums[r][2], sums[r][3]);
                STORE(group_max + (row + r) * (p->columns / GROUP) + lane, MAX(low, high));
            }
        }
    }
}

#undef NAME
#undef TARGET
#undef VECTOR
#undef LANES
#undef ROWS
#undef LOAD
#undef STORE
#undef BROADCAST
#undef MAX
#undef ADD_DOT
