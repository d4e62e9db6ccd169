/* kv: a key-value store. A quarter of the area is an index of two lines a record, the next one a log, the rest records of a
 * line of header and three of value; keys are drawn by Zipf. One step: load the key and the place of the record in the
 * index, load and store when it was used last, load a word of each line of the value, store a line of log. */
#include "requests.h"

enum { BUCKET_BYTES = 128, RECORD_BYTES = 256, AREA_SHIFT = 9 };
#define MISS (~0ull) /* the result when a key was not what setup had stored */

ENTRY void _start(struct parameters *parameters)
{
    for (uint64_t step = 0; step < reread(&parameters->steps); step++) { /* insert only what will be asked for */
        const uint64_t key = record_of(parameters, step, AREA_SHIFT);
        const uint64_t bucket = reread(&parameters->base) + key * BUCKET_BYTES;
        uint64_t line = reread(&parameters->base) + reread(&parameters->footprint) / 2 + key * RECORD_BYTES;
        *word_at(bucket) = key;
        *word_at(bucket + NODE_BYTES) = line;
        do {
            line += NODE_BYTES;
            *word_at(line) = line * GOLDEN;
        } while ((line + NODE_BYTES) % RECORD_BYTES != 0);
    }

    parameters->phase = PHASE_MEASURED;
    for (uint64_t step = 0; step < reread(&parameters->steps); step++) {
        const uint64_t key = record_of(parameters, step, AREA_SHIFT);
        uint64_t place = reread(&parameters->base) + key * BUCKET_BYTES;
        if (*word_at(place) != key)
            finish(parameters, MISS);
        place = *word_at(place + NODE_BYTES);
        rotate_result(parameters);
        add_to_result(parameters, *word_at(place));
        *word_at(place) = step;
        add_to_result(parameters, *word_at(place + NODE_BYTES));
        add_to_result(parameters, *word_at(place + 2 * NODE_BYTES));
        add_to_result(parameters, *word_at(place + 3 * NODE_BYTES));
        place = reread(&parameters->footprint) / 4;
        *word_at(reread(&parameters->base) + place + (step * NODE_BYTES & (place - 1))) = key;
    }
    finish(parameters, parameters->result);
}
