/* stream: one word of every line in sequence, around and around the area: what prefetchers and large pages like best.
 * One step: load the first word of the line, store it with the step's number and the seed added. */
#include "program.h"

ENTRY void _start(struct parameters *parameters)
{
    const uint64_t base = parameters->base, steps = parameters->steps, seed = parameters->seed;
    const uint64_t mask = parameters->footprint - 1;
    uint64_t sum = 0;

    parameters->phase = PHASE_MEASURED; /* nothing to set up: the area starts as zero */
    for (uint64_t step = 0; step < steps; step++) {
        volatile uint64_t *word = word_at(base + (step * NODE_BYTES & mask));
        const uint64_t updated = *word + step + seed;
        *word = updated;
        sum += updated;
    }
    finish(parameters, sum);
}
