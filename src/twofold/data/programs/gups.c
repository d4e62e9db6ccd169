/* gups: random updates of a table of words, after the RandomAccess benchmark of HPC Challenge.
 * One step: load table[i], store table[i] ^ x at the same address; i is the top bits of the random x. */
#include "program.h"

ENTRY void _start(struct parameters *parameters)
{
    const uint64_t base = parameters->base, steps = parameters->steps, seed = parameters->seed;
    const unsigned shift = 64 - (log2_of(parameters->footprint) - 3); /* a word is 2**3 bytes */
    uint64_t sum = 0;

    parameters->phase = PHASE_MEASURED; /* nothing to set up: the table starts as zero */
    for (uint64_t step = 0; step < steps; step++) {
        const uint64_t x = random64(seed, step);
        volatile uint64_t *word = word_at(base + ((x >> shift) << 3));
        const uint64_t updated = *word ^ x;
        *word = updated;
        sum = (sum << 1 | sum >> 63) + updated; /* the rotation makes the order of updates count */
    }
    finish(parameters, sum);
}
