/* run/state.c: what a session remembers between calls: a block per stateful node (keys and values so far), with room for so many
 * positions; its growth, its cutting back, and its copy as bytes. */
#include "base/memory.h"
#include "base/status.h"
#include "run/session.h"

#include <inttypes.h>
#include <string.h>

/* ---- Room ---- */

static size_t window_of(const hd_node *node) { return node->layer->window ? node->layer->window(node->config) : 0; }

static size_t positions_in(const hd_node *node, hd_room room) { return window_of(node) ? room.window : room.context; }

size_t hd_state_bytes(const hd_node *node, hd_room room) {
  return node->layer->state_bytes ? node->layer->state_bytes(node->config, positions_in(node, room)) : 0;
}

static bool has_state(const hd_node *node) { return hd_state_bytes(node, (hd_room){1, 1}) > 0; }

bool hd_model_remembers(const hd_model *model) {
  for (size_t n = 0; n < model->n_nodes; n++)
    if (has_state(&model->nodes[n])) return true;
  return false;
}

/* One number for all layers, the largest window's: so one position tells where all their states begin. */
size_t hd_model_kept(const hd_model *model) {
  size_t most = 0;
  for (size_t n = 0; n < model->n_nodes; n++) {
    size_t window = has_state(&model->nodes[n]) ? window_of(&model->nodes[n]) : 0;
    if (window > most) most = window;
  }
  return most ? most - 1 : SIZE_MAX;
}

hd_room hd_room_for(size_t kept, size_t rows, size_t context) {
  size_t window = hd_plus(kept, rows > HD_STATE_PAGE ? rows : HD_STATE_PAGE);
  return (hd_room){context, window < context ? window : context};
}

static hd_room room_of(const hd_session *s) { return (hd_room){s->sequence.context, s->sequence.window}; }

/* Copies n positions of a node's state, from the `first` in its block on, to the beginning of another block. */
static void copy_state(const hd_node *node, void *to, hd_room to_room, const void *from, hd_room from_room, size_t first, size_t n) {
  node->layer->move_state(node->config, to, positions_in(node, to_room), from, positions_in(node, from_room), first, n);
}

/* Positions that a node's state holds of the session's. */
static size_t held_by(const hd_session *s, const hd_node *node) { return s->sequence.past - (window_of(node) ? s->sequence.begin : 0); }

/* States are linear in positions: two sizes tell the rest, for any number of positions, be it more than a size_t holds the bytes of. Those
 * of layers whose window is filled have their full size. */
void hd_state_estimate(hd_session_size *out, const hd_model *model, hd_room room) {
  const hd_room page = {HD_STATE_PAGE, HD_STATE_PAGE}, pages = {2 * HD_STATE_PAGE, 2 * HD_STATE_PAGE};
  for (size_t n = 0; n < model->n_nodes; n++) {
    const hd_node *node = &model->nodes[n];
    size_t one = hd_state_bytes(node, page), two = hd_state_bytes(node, pages);
    bool full = window_of(node) && room.window < room.context;
    out->state += full ? hd_state_bytes(node, room) : one - (two - one);
    out->per_position += full ? 0 : (two - one) / HD_STATE_PAGE;
  }
}

/* ---- Growing ---- */

/* The node's state moved to a block with more room. */
static void move_state(hd_session *s, size_t n, void *block, hd_room room) {
  const hd_node *node = &s->model->nodes[n];
  void **state = s->sequence.state;
  if (state[n]) copy_state(node, block, room, state[n], room_of(s), 0, held_by(s, node));
  hd_free(state[n]);
  state[n] = block;
}

/* All blocks are there before the first is used, so that a failure leaves the session as it was. */
static hd_status grow_states(hd_session *s, hd_room room, hd_error *err) {
  size_t n_nodes = s->model->n_nodes, wanted = 0; /* a block of SIZE_MAX bytes is never given */
  void **blocks = hd_alloc_zero(n_nodes * sizeof *blocks);
  bool complete = blocks != NULL;
  for (size_t n = 0; n < n_nodes && complete; n++) {
    size_t bytes = hd_state_bytes(&s->model->nodes[n], room);
    wanted = hd_plus(wanted, bytes);
    if (bytes) complete = (blocks[n] = hd_alloc_zero(bytes)) != NULL;
  }
  for (size_t n = 0; n < n_nodes && blocks; n++) {
    if (!complete) hd_free(blocks[n]);
    else if (blocks[n]) move_state(s, n, blocks[n], room);
  }
  hd_free(blocks);
  if (!complete) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a session's state of %zu bytes", wanted);
  s->sequence.context = room.context;
  s->sequence.window = room.window;
  return HD_OK;
}

/* Scratch for the largest call at the end of that room. */
static hd_status reserve_scratch(hd_session *s, hd_room room, hd_error *err) {
  size_t planned = s->steps.planned_input.dim[0], rows = planned < room.context ? planned : room.context;
  const hd_sequence end = {.rows = rows, .past = room.context - rows, .begin = room.context - room.window, .context = room.context,
                           .window = room.window};
  const hd_run run = {.sequences = &end, .n_sequences = 1, .output_rows = s->steps.run.output_rows, .keep = s->steps.run.keep};
  return hd_steps_reserve(&s->steps, &run, err);
}

hd_status hd_session_reserve(hd_session *s, size_t positions, hd_error *err) {
  if (!s->has_state) return HD_OK;
  if (positions > s->max_context)
    return hd_fail(err, HD_BAD_STATE, "%zu positions are more than the session's context of %zu", positions, s->max_context);
  if (positions <= s->sequence.context) return HD_OK;
  size_t context = (positions + HD_STATE_PAGE - 1) / HD_STATE_PAGE * HD_STATE_PAGE;
  if (context > s->max_context) context = s->max_context;
  const hd_room room = hd_room_for(s->kept, s->steps.planned_input.dim[0], context);
  HD_TRY(reserve_scratch(s, room, err));
  return grow_states(s, room, err);
}

/* Takes from the states of layers with a window what no row will look at any more. */
static void give_up(hd_session *s) {
  hd_sequence *q = &s->sequence;
  size_t first = q->past - q->begin - s->kept;
  for (size_t n = 0; n < s->model->n_nodes; n++) {
    const hd_node *node = &s->model->nodes[n];
    if (q->state[n] && window_of(node)) copy_state(node, q->state[n], room_of(s), q->state[n], room_of(s), first, s->kept);
  }
  q->begin += first;
}

hd_status hd_session_make_room(hd_session *s, size_t rows, hd_error *err) {
  const hd_sequence *q = &s->sequence;
  size_t want = q->past + rows;
  if (!s->has_state) return HD_OK;
  if (want > s->max_context)
    return hd_fail(err, HD_BAD_STATE, "%zu more positions after %zu do not fit the context of %zu", rows, q->past, s->max_context);
  if (want > q->context) return hd_fail(err, HD_BAD_STATE, "%zu positions are not reserved; call hd_session_reserve between decodes", want);
  if (want - q->begin > q->window) give_up(s);
  return HD_OK;
}

size_t hd_session_position(const hd_session *s) { return s->sequence.past; }

/* Whether the states still hold what a row at the position looks at. */
static bool holds_past_of(const hd_session *s, size_t position) {
  return s->sequence.begin == 0 || position >= s->sequence.begin + hd_model_kept(s->model);
}

hd_status hd_session_rewind(hd_session *s, size_t position, hd_error *err) {
  hd_sequence *q = &s->sequence;
  if (position > q->past) return hd_fail(err, HD_BAD_ARGUMENT, "cannot rewind to %zu, the session is at %zu", position, q->past);
  if (position > 0 && !holds_past_of(s, position))
    return hd_fail(err, HD_UNSUPPORTED, "cannot rewind to %zu: layers with a window hold what it takes to go back to %zu, or to 0",
                   position, q->begin + hd_model_kept(s->model));
  if (position == 0) q->begin = 0;
  q->past = position;
  return HD_OK;
}

/* ---- Saving ---- */

/* A saved state: this, then each stateful node's block for exactly `position` positions, those of layers with a
 * window from `begin` on, in the order of nodes. */
typedef struct saved_head {
  char magic[8];
  uint64_t position, begin;
  uint64_t bytes; /* of all blocks: with another model they differ */
} saved_head;

static const char MAGIC[8] = {'H', 'D', 'S', 'T', 'A', 'T', 'E', '2'};

/* The room of a saved state's blocks. */
static hd_room saved_room(size_t position, size_t begin) { return (hd_room){position, position - begin}; }

static uint64_t block_bytes(const hd_session *s, hd_room room) {
  uint64_t bytes = 0;
  for (size_t n = 0; n < s->model->n_nodes; n++) bytes += hd_state_bytes(&s->model->nodes[n], room);
  return bytes;
}

size_t hd_session_state_bytes(const hd_session *s) {
  return sizeof(saved_head) + (size_t)block_bytes(s, saved_room(s->sequence.past, s->sequence.begin));
}

hd_status hd_session_save_state(const hd_session *s, void *to, size_t n, hd_error *err) {
  if (n != hd_session_state_bytes(s))
    return hd_fail(err, HD_BAD_ARGUMENT, "the state takes %zu bytes, found room for %zu", hd_session_state_bytes(s), n);
  const hd_sequence *q = &s->sequence;
  const hd_room room = saved_room(q->past, q->begin);
  saved_head head = {.position = q->past, .begin = q->begin, .bytes = block_bytes(s, room)};
  memcpy(head.magic, MAGIC, sizeof head.magic);
  memcpy(to, &head, sizeof head);
  char *at = (char *)to + sizeof head;
  for (size_t i = 0; i < s->model->n_nodes; i++) {
    const hd_node *node = &s->model->nodes[i];
    size_t bytes = hd_state_bytes(node, room);
    if (bytes && q->state[i]) copy_state(node, at, room, q->state[i], room_of(s), 0, held_by(s, node));
    else memset(at, 0, bytes);
    at += bytes;
  }
  return HD_OK;
}

static hd_status check_saved(const hd_session *s, const saved_head *head, size_t n, hd_error *err) {
  if (memcmp(head->magic, MAGIC, sizeof MAGIC) != 0) return hd_fail(err, HD_BAD_FILE, "these bytes are no session's state");
  if (s->mode == HD_TRAIN) return hd_fail(err, HD_BAD_STATE, "training begins at position 0 and goes on from no state");
  if (head->position > 0 && !s->has_state)
    return hd_fail(err, HD_BAD_STATE, "the state is of %" PRIu64 " positions, found a model whose layers keep none", head->position);
  if (head->position > s->max_context)
    return hd_fail(err, HD_BAD_STATE, "the state's %" PRIu64 " positions are more than the session's context of %zu",
                   head->position, s->max_context);
  if (head->begin > 0 && (head->begin > head->position || head->position - head->begin < hd_model_kept(s->model)))
    return hd_fail(err, HD_BAD_FILE, "a state of %" PRIu64 " positions cannot begin at %" PRIu64 " in this model",
                   head->position, head->begin);
  uint64_t bytes = block_bytes(s, saved_room((size_t)head->position, (size_t)head->begin));
  if (head->bytes != bytes || n - sizeof *head != bytes)
    return hd_fail(err, HD_BAD_FILE,
                   "a state of %" PRIu64 " positions takes %" PRIu64 " bytes in this model, found %zu: it is another model's",
                   head->position, bytes, n - sizeof *head);
  return HD_OK;
}

/* Of a node with a window, as many of the last positions as there is room for. */
static void load_node(hd_session *s, size_t index, const void *from, hd_room room) {
  const hd_node *node = &s->model->nodes[index];
  size_t held = positions_in(node, room), most = positions_in(node, room_of(s)), n = held < most ? held : most;
  copy_state(node, s->sequence.state[index], room_of(s), from, room, held - n, n);
}

hd_status hd_session_load_state(hd_session *s, const void *from, size_t n, hd_error *err) {
  saved_head head;
  if (n < sizeof head) return hd_fail(err, HD_BAD_FILE, "a session's state has at least %zu bytes, found %zu", sizeof head, n);
  memcpy(&head, from, sizeof head);
  HD_TRY(check_saved(s, &head, n, err));
  size_t position = (size_t)head.position, begin = (size_t)head.begin;
  const hd_room room = saved_room(position, begin);
  HD_TRY(hd_session_reserve(s, position, err));
  const char *at = (const char *)from + sizeof head;
  for (size_t i = 0; i < s->model->n_nodes; i++) {
    size_t bytes = hd_state_bytes(&s->model->nodes[i], room);
    if (bytes && s->sequence.state[i]) load_node(s, i, at, room);
    at += bytes;
  }
  s->sequence.past = position;
  s->sequence.begin = room.window > s->sequence.window ? position - s->sequence.window : begin;
  s->has_output = s->has_loss = false;
  return HD_OK;
}
