/* matmul: the product of two matrices of words, in tiles of 32 x 32 as a cache likes it. A quarter of the area each for A
 * (rows x inner), B (inner x rows) and C (rows x rows); every extent is a power of two, inner as large as rows or twice.
 * One step: load A[i][k] and B[k][j], load C[i][j] and store it with their product added. After the last, all again. */
#include "program.h"

enum { TILE_BITS = 5 };
#define FIELD(step, shift, bits) ((step) >> (shift) & (((uint64_t)1 << (bits)) - 1))

/* The bits of a step, from the lowest: j, k and i in a tile, then k, j and i of the tile. `rows` and `inner` are log2 of the
 * extents. */
static inline uint64_t column_of(uint64_t step, unsigned rows, unsigned inner)
{
    return FIELD(step, 0, TILE_BITS) | FIELD(step, 2 * TILE_BITS + inner, rows - TILE_BITS) << TILE_BITS;
}

static inline uint64_t inner_of(uint64_t step, unsigned inner)
{
    return FIELD(step, TILE_BITS, TILE_BITS) | FIELD(step, 3 * TILE_BITS, inner - TILE_BITS) << TILE_BITS;
}

static inline uint64_t row_of(uint64_t step, unsigned rows, unsigned inner)
{
    return FIELD(step, 2 * TILE_BITS, TILE_BITS) | FIELD(step, TILE_BITS + inner + rows, rows - TILE_BITS) << TILE_BITS;
}

ENTRY void _start(struct parameters *parameters)
{
    const unsigned bits = log2_of(parameters->footprint / 32), rows = bits / 2, inner = bits - rows;

    for (uint64_t step = 0; step < reread(&parameters->steps); step++) { /* only what will be multiplied; C is zero */
        uint64_t word = row_of(step, rows, inner) << inner | inner_of(step, inner);
        *word_at(reread(&parameters->base) + word * 8) = random64(reread(&parameters->seed), word);
        word = reread(&parameters->footprint) / 32 + (inner_of(step, inner) << rows | column_of(step, rows, inner));
        *word_at(reread(&parameters->base) + word * 8) = random64(reread(&parameters->seed), word);
    }

    uint64_t sum = 0;
    parameters->phase = PHASE_MEASURED;
    for (uint64_t step = 0; step < reread(&parameters->steps); step++) {
        uint64_t gva = reread(&parameters->base);
        uint64_t updated = *word_at(gva + (row_of(step, rows, inner) << inner | inner_of(step, inner)) * 8);
        gva += reread(&parameters->footprint) / 4;
        updated *= *word_at(gva + (inner_of(step, inner) << rows | column_of(step, rows, inner)) * 8);
        gva += reread(&parameters->footprint) / 4;
        gva += (row_of(step, rows, inner) << rows | column_of(step, rows, inner)) * 8;
        updated += *word_at(gva);
        *word_at(gva) = updated;
        sum = (sum << 1 | sum >> 63) + updated; /* the rotation makes the order of updates count */
    }
    finish(parameters, sum);
}
