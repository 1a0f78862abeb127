/* The error record. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core.h"

void pfo_clear(pfo_error *error)
{
    if (!error) return;
    error->status = PFO_OK;
    error->argument[0] = '\0';
    error->message[0] = '\0';
    error->index = -1;
}

pfo_status pfo_fail(pfo_error *error, pfo_status status, const char *argument, int64_t index, const char *format, ...)
{
    if (!error) return status;
    error->status = status;
    error->index = index;
    snprintf(error->argument, sizeof error->argument, "%s", argument);
    int used = snprintf(error->message, sizeof error->message, "%s: ", argument);
    if (used < 0) used = 0;
    va_list list;
    va_start(list, format);
    vsnprintf(error->message + used, sizeof error->message - (size_t)used, format, list);
    va_end(list);
    return status;
}
