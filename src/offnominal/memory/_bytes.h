/* Products of patches in whole steps with a panel of the bank, as whole numbers: included once for every kind of processor, which
defines NAME, TARGET, VECTOR, LANES (of 32 bits), ROWS (patches at once, so many that sums stay in registers), LOAD, STORE, SPREAD
(one number to all lanes), LARGER and ADD_PRODUCTS (of four bytes a lane). */

TARGET static void NAME(const Panel *p, const uint8_t *steps, int32_t *out, int32_t *largest) {
    for (int row = 0; row < AT_ONCE; row += ROWS) {
        for (int lane = 0; lane < MEMBERS; lane += LANES) {
            const int8_t *bank = p->bank + 4 * lane;
            VECTOR sums[ROWS][GROUP];
#pragma GCC unroll 4
            for (int g = 0; g < GROUP; g++)
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++)
                    sums[r][g] = LOAD(p->start + MEMBERS * g + lane);
            for (Py_ssize_t at = 0; at < p->width; at += 4, bank += 4 * PANEL) {
                VECTOR own[GROUP];
#pragma GCC unroll 4
                for (int g = 0; g < GROUP; g++)
                    own[g] = LOAD(bank + 4 * MEMBERS * g);
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    int32_t four;
                    memcpy(&four, steps + (row + r) * p->width + at, 4);
                    VECTOR spread = SPREAD(four);
#pragma GCC unroll 4
                    for (int g = 0; g < GROUP; g++)
                        sums[r][g] = ADD_PRODUCTS(sums[r][g], spread, own[g]);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
                for (int g = 0; g < GROUP; g++)
                    STORE(out + (row + r) * p->columns + MEMBERS * g + lane, sums[r][g]);
                VECTOR front = LARGER(sums[r][0], sums[r][1]), back = LARGER(sums[r][2], sums[r][3]);
                STORE(largest + (row + r) * (p->columns / GROUP) + lane, LARGER(front, back));
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
#undef SPREAD
#undef LARGER
#undef ADD_PRODUCTS
