/* web: a web server. A quarter of the area holds connections of 4 KiB, an eighth sessions of 256 bytes, the next eighth a
 * log, the rest files of 4 KiB. One step: load two lines of a connection's request, load and store how often a session came,
 * load eight lines of a file drawn by Zipf, store two lines of the answer's head, store a line of log. */
#include "requests.h"

enum { FILE_BYTES = 4096, SESSION_BYTES = 256, AREA_SHIFT = 13, LINES = 8 };

/* Return the first line that a step reads of its file; after the last one of the file comes its first. */
static inline uint64_t first_line(struct parameters *parameters, uint64_t step)
{
    return drawn(parameters, step, DRAWS - 2) * NODE_BYTES;
}

static inline uint64_t connection_of(struct parameters *parameters, uint64_t step)
{
    const uint64_t choice = drawn(parameters, step, DRAWS - 1);
    return reread(&parameters->base) + ((choice >> 32) * FILE_BYTES & (reread(&parameters->footprint) / 4 - 1));
}

static inline uint64_t session_of(struct parameters *parameters, uint64_t step)
{
    const uint64_t choice = drawn(parameters, step, DRAWS - 1);
    const uint64_t footprint = reread(&parameters->footprint);
    return reread(&parameters->base) + footprint / 4 + (choice * SESSION_BYTES & (footprint / 8 - 1));
}

ENTRY void _start(struct parameters *parameters)
{
    for (uint64_t step = 0; step < reread(&parameters->steps); step++) { /* write only what will be read */
        const uint64_t file = record_of(parameters, step, AREA_SHIFT) * FILE_BYTES;
        const uint64_t first = first_line(parameters, step);
        for (uint64_t line = 0; line < LINES * NODE_BYTES; line += NODE_BYTES) {
            const uint64_t place = file + ((first + line) & (FILE_BYTES - 1));
            *word_at(reread(&parameters->base) + reread(&parameters->footprint) / 2 + place) = place * GOLDEN;
        }
    }

    parameters->phase = PHASE_MEASURED;
    for (uint64_t step = 0; step < reread(&parameters->steps); step++) {
        const uint64_t connection = connection_of(parameters, step);
        rotate_result(parameters);
        add_to_result(parameters, *word_at(connection));
        add_to_result(parameters, *word_at(connection + NODE_BYTES));
        uint64_t place = session_of(parameters, step);
        const uint64_t came = *word_at(place);
        *word_at(place) = came + 1;
        add_to_result(parameters, came);
        const uint64_t file = record_of(parameters, step, AREA_SHIFT) * FILE_BYTES;
        for (uint64_t line = 0; line < LINES * NODE_BYTES; line += NODE_BYTES) {
            place = reread(&parameters->base) + reread(&parameters->footprint) / 2 + file;
            add_to_result(parameters, *word_at(place + ((first_line(parameters, step) + line) & (FILE_BYTES - 1))));
        }
        place = connection_of(parameters, step);
        *word_at(place + 2 * NODE_BYTES) = file;
        *word_at(place + 3 * NODE_BYTES) = step;
        place = reread(&parameters->footprint) / 8;
        *word_at(reread(&parameters->base) + 3 * place + (step * NODE_BYTES & (place - 1))) = file;
    }
    finish(parameters, parameters->result);
}
