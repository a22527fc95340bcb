/* format/bundle_weights.h: what bundle.c (the outer text) and bundle_weights.c (the weights inside) give each other. */
#ifndef HD_FORMAT_BUNDLE_WEIGHTS_H
#define HD_FORMAT_BUNDLE_WEIGHTS_H

#include "format/bundle.h"

/* Reads the inner text into the bundle's tensors, as bundle->form says. */
hd_status hd_bundle_read_weights(hd_bundle *bundle, const char *text, size_t n, hd_error *err);

/* ---- Members of objects, whose keys match whatever their case ---- */

/* `b` is in lower case. */
bool hd_same_key(const char *a, const char *b);
/* Steps to the object's next member that is one of `names` and not null, over all others. Its index, or −1 at the end.
 * `seen` has a bit for each name that was there. */
int hd_next_member(hd_json_reader *r, const char *const *names, int n_names, uint64_t *seen);
/* The reader's failure at the byte it has come to. */
void hd_bundle_fail(hd_json_reader *r, hd_status code, const char *problem);

#endif
