/* run/state.c: what a session remembers between calls: a block per stateful node (keys and values so far, recurrent state), with room for so
 * many positions; its growth, its cutting back, and its copy as bytes. */
#include "base/memory.h"
#include "base/status.h"
#include "run/session.h"

#include <inttypes.h>
#include <string.h>

size_t hd_state_bytes(const hd_node *node, size_t context) {
  return node->layer->state_bytes ? node->layer->state_bytes(node->config, context) : 0;
}

bool hd_model_remembers(const hd_model *model) {
  for (size_t n = 0; n < model->n_nodes; n++)
    if (hd_state_bytes(&model->nodes[n], 1)) return true;
  return false;
}

/* Copies a node's state between blocks for so many positions; `used` of them are there. */
static void copy_state(const hd_node *node, void *to, size_t to_context, const void *from, size_t from_context, size_t used) {
  if (node->layer->move_state) node->layer->move_state(node->config, to, to_context, from, from_context, used);
  else memcpy(to, from, hd_state_bytes(node, from_context));
}

/* The node's state moved to a block for `context` positions. */
static void move_state(hd_session *s, size_t n, void *block, size_t context) {
  if (s->sequence.state[n]) copy_state(&s->model->nodes[n], block, context, s->sequence.state[n], s->sequence.context, s->sequence.past);
  hd_free(s->sequence.state[n]);
  s->sequence.state[n] = block;
}

/* All blocks are there before the first is used, so that a failure leaves the session as it was. */
static hd_status grow_states(hd_session *s, size_t context, hd_error *err) {
  size_t n_nodes = s->model->n_nodes, wanted = 0; /* a block of SIZE_MAX bytes is never given */
  void **blocks = hd_alloc_zero(n_nodes * sizeof *blocks);
  bool complete = blocks != NULL;
  for (size_t n = 0; n < n_nodes && complete; n++) {
    size_t bytes = hd_state_bytes(&s->model->nodes[n], context);
    wanted = hd_plus(wanted, bytes);
    if (bytes) complete = (blocks[n] = hd_alloc_zero(bytes)) != NULL;
  }
  for (size_t n = 0; n < n_nodes && blocks; n++) {
    if (!complete) hd_free(blocks[n]);
    else if (blocks[n]) move_state(s, n, blocks[n], context);
  }
  hd_free(blocks);
  if (!complete) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a session's state of %zu bytes", wanted);
  s->sequence.context = context;
  return HD_OK;
}

hd_status hd_session_reserve(hd_session *s, size_t positions, hd_error *err) {
  if (!s->has_state) return HD_OK;
  if (positions > s->max_context)
    return hd_fail(err, HD_BAD_STATE, "%zu positions are more than the session's context of %zu", positions, s->max_context);
  if (positions <= s->sequence.context) return HD_OK;
  size_t context = (positions + HD_STATE_PAGE - 1) / HD_STATE_PAGE * HD_STATE_PAGE;
  return grow_states(s, context < s->max_context ? context : s->max_context, err);
}

size_t hd_session_position(const hd_session *s) { return s->sequence.past; }

hd_status hd_session_rewind(hd_session *s, size_t position, hd_error *err) {
  if (position > s->sequence.past) return hd_fail(err, HD_BAD_ARGUMENT, "cannot rewind to %zu, the session is at %zu", position, s->sequence.past);
  if (position > 0 && !s->can_rewind) return hd_fail(err, HD_UNSUPPORTED, "recurrent state can only go back to 0");
  for (size_t n = 0; position == 0 && n < s->model->n_nodes; n++)
    if (s->sequence.state[n] && !s->model->nodes[n].layer->can_rewind) memset(s->sequence.state[n], 0, hd_state_bytes(&s->model->nodes[n], s->sequence.context));
  s->sequence.past = position;
  return HD_OK;
}

/* ---- Saving ---- */

/* A saved state: this, then each stateful node's block for exactly `position` positions, in the order of nodes. */
typedef struct saved_head {
  char magic[8];
  uint64_t position;
  uint64_t bytes; /* of all blocks: with another model they differ */
} saved_head;

static const char MAGIC[8] = {'H', 'D', 'S', 'T', 'A', 'T', 'E', '1'};

static uint64_t block_bytes(const hd_session *s, size_t position) {
  uint64_t bytes = 0;
  for (size_t n = 0; n < s->model->n_nodes; n++) bytes += hd_state_bytes(&s->model->nodes[n], position);
  return bytes;
}

size_t hd_session_state_bytes(const hd_session *s) { return sizeof(saved_head) + (size_t)block_bytes(s, s->sequence.past); }

hd_status hd_session_save_state(const hd_session *s, void *to, size_t n, hd_error *err) {
  if (n != hd_session_state_bytes(s)) return hd_fail(err, HD_BAD_ARGUMENT, "the state takes %zu bytes, found room for %zu", hd_session_state_bytes(s), n);
  saved_head head = {.position = s->sequence.past, .bytes = block_bytes(s, s->sequence.past)};
  memcpy(head.magic, MAGIC, sizeof head.magic);
  memcpy(to, &head, sizeof head);
  char *at = (char *)to + sizeof head;
  for (size_t i = 0; i < s->model->n_nodes; i++) {
    const hd_node *node = &s->model->nodes[i];
    size_t bytes = hd_state_bytes(node, s->sequence.past);
    if (bytes && s->sequence.state[i]) copy_state(node, at, s->sequence.past, s->sequence.state[i], s->sequence.context, s->sequence.past);
    else memset(at, 0, bytes);
    at += bytes;
  }
  return HD_OK;
}

static hd_status check_saved(const hd_session *s, const saved_head *head, size_t n, hd_error *err) {
  if (memcmp(head->magic, MAGIC, sizeof MAGIC) != 0) return hd_fail(err, HD_BAD_FILE, "these bytes are no session's state");
  if (head->position > 0 && !s->has_state)
    return hd_fail(err, HD_BAD_STATE, "the state is of %" PRIu64 " positions, found a model whose layers keep none", head->position);
  if (head->position > s->max_context)
    return hd_fail(err, HD_BAD_STATE, "the state's %" PRIu64 " positions are more than the session's context of %zu", head->position, s->max_context);
  uint64_t bytes = block_bytes(s, (size_t)head->position);
  if (head->bytes != bytes || n - sizeof *head != bytes)
    return hd_fail(err, HD_BAD_FILE, "a state of %" PRIu64 " positions takes %" PRIu64 " bytes in this model, found %zu: it is another model's", head->position,
                   bytes, n - sizeof *head);
  return HD_OK;
}

hd_status hd_session_load_state(hd_session *s, const void *from, size_t n, hd_error *err) {
  saved_head head;
  if (n < sizeof head) return hd_fail(err, HD_BAD_FILE, "a session's state has at least %zu bytes, found %zu", sizeof head, n);
  memcpy(&head, from, sizeof head);
  HD_TRY(check_saved(s, &head, n, err));
  size_t position = (size_t)head.position;
  HD_TRY(hd_session_reserve(s, position, err));
  const char *at = (const char *)from + sizeof head;
  for (size_t i = 0; i < s->model->n_nodes; i++) {
    const hd_node *node = &s->model->nodes[i];
    size_t bytes = hd_state_bytes(node, position);
    if (bytes && s->sequence.state[i]) copy_state(node, s->sequence.state[i], s->sequence.context, at, position, position);
    at += bytes;
  }
  s->sequence.past = position;
  s->has_output = s->has_loss = false;
  return HD_OK;
}
