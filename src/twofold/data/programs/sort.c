/* sort: a bottom-up merge sort of words, from run to run twice as long. Runs are stored up and down in turn, so that a merge
 * takes from both ends of a pair inwards, and the largest word ends both runs: no end is tested for (Sedgewick, "Algorithms
 * in C", bitonic merge). The input stays as it is, two buffers take the passes in turn, and a finished sort starts again.
 * One step: load the next word of each run, store the smaller. */
#include "program.h"

/* Return the word that input[index] holds: its place in the sorted array. Merges are made to alternate, so that the next
 * word of any merge is known in advance: of each two words that one stores, one is from either run, in an order drawn at
 * random. Bit 0 of the random number of a pair of steps says that the right run comes first. */
static inline uint64_t key_of(uint64_t index, uint64_t words, uint64_t seed)
{
    uint64_t run = index, place = 0, first_step = 0;
    for (uint64_t length = 1; length < words; length *= 2) {
        const uint64_t start = (run >> 1) * 2 * length;
        const uint64_t right_first = random64(seed, (first_step + start + 2 * place) >> 1) & 1;
        place = 2 * place + ((run & 1) ^ right_first);
        run >>= 1;
        first_step += words;
    }
    return place;
}

ENTRY void _start(struct parameters *parameters)
{
    uint64_t quarter = parameters->footprint / 4;
    uint64_t words = quarter / 8;

    for (uint64_t index = 0; index <= (parameters->steps | 1) && index < words; index++) /* only what will be merged */
        *word_at(parameters->base + index * 8) = key_of(index, words, parameters->seed);

    uint64_t sum = 0, position = 0, pair = 2, left = 0, right = 0; /* pair: words of two runs */
    uint64_t source = parameters->base, target = source + quarter, steps = parameters->steps;
    parameters->phase = PHASE_MEASURED;
    while (steps-- != 0) {
        const uint64_t merged = position & (pair - 1);
        if (merged == 0) {
            left = source + position * 8;
            right = left + pair * 8 - 8;
        }
        uint64_t next = *word_at(left);
        const uint64_t other = *word_at(right);
        if (next <= other) {
            left += 8;
        } else {
            right -= 8;
            next = other;
        }
        /* every second merge stores downwards: the complement within the pair */
        *word_at(target + (position & pair ? position ^ (pair - 1) : position) * 8) = next;
        sum = (sum << 1 | sum >> 63) + next;
        if (++position == words) {
            position = 0;
            pair *= 2;
            source = target;
            target = parameters->base + quarter;
            if (source == target)
                target += quarter;
            if (pair > words) {
                pair = 2;
                source = parameters->base;
                target = source + quarter;
            }
        }
    }
    finish(parameters, sum);
}
