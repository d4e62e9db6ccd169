/* lookup: reads of a hash table whose keys are as skewed as those of a cache or an index: P(rank) ~ 1 / rank.
 * One slot a node: {key, value}; the key is the rank, never zero. One step: load the key, compare, load the value. */
#include "program.h"

#define MISS (~0ull) /* the result when a key was not what setup had stored */

/* Return the rank that a lookup asks for, 1 to 2**octaves - 1: an octave drawn evenly, then a rank within it. The
 * octave comes from the top 16 bits, the rank from the others, so that the two are independent. */
static inline uint64_t rank_of(uint64_t x, unsigned octaves)
{
    const unsigned octave = (unsigned)((x >> 48) * octaves >> 16);
    const uint64_t lowest = (uint64_t)1 << octave;
    return lowest | (x & (lowest - 1));
}

ENTRY void _start(struct parameters *parameters)
{
    const uint64_t base = parameters->base, steps = parameters->steps, seed = parameters->seed;
    const uint64_t slots = parameters->footprint / NODE_BYTES;
    const unsigned octaves = log2_of(slots);
    /* Fibonacci hashing: hot ranks lie far apart, and an odd factor gives each rank a slot of its own. */
    const uint64_t scramble = GOLDEN >> (64 - octaves) | 1;

    for (uint64_t step = 0; step < steps; step++) { /* insert only what will be looked up */
        const uint64_t rank = rank_of(random64(seed, step), octaves);
        volatile uint64_t *slot = word_at(base + ((rank * scramble) & (slots - 1)) * NODE_BYTES);
        slot[0] = rank;
        slot[1] = rank * GOLDEN ^ seed;
    }

    uint64_t sum = 0;
    parameters->phase = PHASE_MEASURED;
    for (uint64_t step = 0; step < steps; step++) {
        const uint64_t rank = rank_of(random64(seed, step), octaves);
        volatile uint64_t *slot = word_at(base + ((rank * scramble) & (slots - 1)) * NODE_BYTES);
        if (slot[0] != rank) {
            sum = MISS;
            break;
        }
        sum += slot[1];
    }
    finish(parameters, sum);
}
