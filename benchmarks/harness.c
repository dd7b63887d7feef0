/* Load client and fake engine in one epoll loop, so that neither waits for another process.
 *
 * The engine speaks llama.cpp's wire format and sends the same events on the routes of the peers we compare with. One send() per
 * event. Closed loop: the engine sends a stream's next token when the client has read its last one, so nothing coalesces.
 * A request body that holds "@" and eight digits belongs to the client request of that number; 99999999 is held without a token;
 * what comes while posts are measured is held too; a body without "@" is decoded at once, the same text for every prompt.
 *
 * Usage: harness SLOTS CTX. The first line of output is {"engine_port": N}. Commands come as lines on standard input, and each is
 * answered by lines of JSON, the last of which has "done":
 *   load PORT FILE CONCURRENCY TOKENS TOTAL PACE_US   stream TOTAL requests; PACE_US > 0: a token at fixed times instead.
 *                                                     Each mark wants a line `go`; a closed loop stands still until it comes
 *   open PORT FILE COUNT                              open COUNT streams with one token each and leave them open
 *   post PORT FILE CONCURRENCY TOTAL                  POST and read whole answers on kept connections
 *   close                                             drop every client connection and what the engine holds
 *   quit
 * FILE holds one whole HTTP request with "@00000000" in its body.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNS = 65536, READ_BYTES = 65536, HELD = 99999999, LINKS = 1 << 21, HOSTS = 8 };
typedef enum { FREE, LISTENER, INPUT, CLIENT_STREAM, CLIENT_POST, ENGINE } Kind;

typedef struct {
    Kind kind;
    char *in;          /* bytes not used yet: a request on the engine's side, an answer on the client's */
    size_t in_bytes, in_room;
    int link;          /* number of the client request, -1 none */
    int sent, wanted;  /* tokens of a stream */
    bool streaming, close_after, head_seen;
    double marker;     /* what the request put into mirostat_tau, shown in /slots */
    double begun_s, token_sent_s, next_at_s;
} Conn;

static Conn conns[CONNS];
static int *engine_of, *client_of; /* request number -> descriptor, -1 none */
static int poll_fd, highest, slots_total, ctx_tokens;
static char scratch[READ_BYTES + 1];

static struct {
    enum { IDLE, LOAD, OPEN, POST } mode;
    struct sockaddr_in target;
    char *request;
    size_t request_bytes;
    char *digits;
    int concurrency, tokens, total, started, finished, opened, errors;
    long tokens_read, mark_low, mark_high;
    double begun_s, pace_s, stood_s;
    double *first_ms, *token_us;
    long token_samples, token_room;
    char problem[400];
} run;

static int next_number;
static bool told_to_go;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, Kind kind) {
    if (fd >= CONNS) {
        fprintf(stderr, "too many connections\n");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fd > highest) highest = fd;
    char *kept = conns[fd].in;
    size_t room = conns[fd].in_room;
    conns[fd] = (Conn){.kind = kind, .in = kept, .in_room = room, .link = -1};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

static void drop(int fd) {
    Conn *c = &conns[fd];
    if (c->link >= 0 && c->link < LINKS) {
        if (c->kind == ENGINE && engine_of[c->link] == fd) engine_of[c->link] = -1;
        if (c->kind != ENGINE && client_of[c->link] == fd) client_of[c->link] = -1;
    }
    c->kind = FREE;
    c->in_bytes = 0;
    if (c->in_room > 1 << 20) {
        free(c->in);
        c->in = NULL;
        c->in_room = 0;
    }
    close(fd);
}

static void keep(Conn *c, const char *data, size_t bytes) {
    if (c->in_bytes + bytes + 1 > c->in_room) {
        c->in_room = (c->in_bytes + bytes + 1) * 2;
        c->in = realloc(c->in, c->in_room);
    }
    memcpy(c->in + c->in_bytes, data, bytes);
    c->in_bytes += bytes;
    c->in[c->in_bytes] = 0;
}

static bool send_all(int fd, const char *data, size_t bytes) {
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (sent < 0) return false;
        data += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

/* ---- the engine ---- */

static bool send_chunk(int fd, const char *event, int bytes) {
    char chunk[1024];
    int whole = snprintf(chunk, sizeof chunk, "%x\r\n%.*s\r\n", bytes, bytes, event);
    return send_all(fd, chunk, (size_t)whole);
}

static void send_last(int fd) {
    Conn *c = &conns[fd];
    char event[512];
    int bytes = snprintf(event, sizeof event,
                         "data: {\"content\":\"\",\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":%d,\"tokens_evaluated\":8,"
                         "\"timings\":{\"cache_n\":0,\"prompt_n\":8,\"prompt_ms\":8.0,\"predicted_n\":%d,\"predicted_ms\":%d.0}}\n\n",
                         c->sent, c->sent, c->sent);
    char whole[700];
    int all = snprintf(whole, sizeof whole, "%x\r\n%.*s\r\n0\r\n\r\n", bytes, bytes, event);
    c->streaming = false;
    bool sent = send_all(fd, whole, (size_t)all);
    if (c->link >= 0 && c->link < LINKS) engine_of[c->link] = -1;
    c->link = -1;
    if (!sent || c->close_after) drop(fd);
}

static void send_token(int fd) {
    Conn *c = &conns[fd];
    char event[256];
    c->sent++;
    int bytes = snprintf(event, sizeof event,
                         "data: {\"index\":0,\"content\":\" %s%02d\",\"tokens\":[%d],\"stop\":false,\"id_slot\":-1,"
                         "\"tokens_predicted\":%d,\"tokens_evaluated\":8}\n\n",
                         c->link >= 0 ? "to~" : "tok", c->sent % 100, 400 + c->sent % 100, c->sent);
    c->token_sent_s = now_s();
    if (!send_chunk(fd, event, bytes)) {
        drop(fd);
        return;
    }
    if (c->sent >= c->wanted) send_last(fd);
}

static void answer(int fd, const char *type, const char *body) {
    char head[256];
    size_t bytes = strlen(body);
    int head_bytes = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, bytes);
    bool close_after = conns[fd].close_after;
    if (!send_all(fd, head, (size_t)head_bytes) || !send_all(fd, body, bytes) || close_after) drop(fd);
}

static void answer_slots(int fd) {
    size_t room = 256 * ((size_t)slots_total + 1), used = 0;
    char *body = malloc(room);
    int shown = 0;
    used += (size_t)snprintf(body, room, "[");
    for (int other = 0; other <= highest && shown < slots_total; other++)
        if (conns[other].kind == ENGINE && conns[other].streaming)
            used += (size_t)snprintf(body + used, room - used,
                                     "%s{\"id\":%d,\"n_ctx\":%d,\"is_processing\":true,\"n_prompt_tokens\":8,"
                                     "\"params\":{\"mirostat_tau\":%.1f}}",
                                     shown ? "," : "", shown, ctx_tokens, conns[other].marker),
                shown++;
    for (; shown < slots_total; shown++)
        used += (size_t)snprintf(body + used, room - used, "%s{\"id\":%d,\"n_ctx\":%d,\"is_processing\":false,\"n_prompt_tokens\":0}",
                                 shown ? "," : "", shown, ctx_tokens);
    snprintf(body + used, room - used, "]");
    answer(fd, "application/json", body);
    free(body);
}

static void begin_stream(int fd, const char *body) {
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    Conn *c = &conns[fd];
    const char *at = body, *predict = strstr(body, "\"n_predict\":"), *tau = strstr(body, "\"mirostat_tau\":");
    c->link = -1;
    while ((at = strchr(at, '@')) != NULL && strspn(at + 1, "0123456789") < 8) at++;
    if (at) c->link = (int)strtol(at + 1, NULL, 10);
    c->marker = tau ? strtod(tau + 15, NULL) : -1.0;
    c->sent = 0;
    c->streaming = true;
    if (!send_all(fd, head, sizeof head - 1)) {
        drop(fd);
        return;
    }
    if (c->link == HELD || run.mode == POST) return;
    if (c->link < 0) {
        c->wanted = predict ? atoi(predict + 12) : 16;
        while (conns[fd].kind == ENGINE && conns[fd].streaming) send_token(fd);
        return;
    }
    engine_of[c->link] = fd;
    c->wanted = run.mode == OPEN ? INT32_MAX : run.tokens;
    if (run.pace_s > 0) {
        /* Spread the streams' clocks over one interval. */
        c->next_at_s = now_s() + run.pace_s * (double)(c->link % 997) / 997.0;
        return;
    }
    send_token(fd);
}

static void serve_request(int fd, const char *line, const char *body) {
    char json[512];
    if (strstr(line, "/completion") || strstr(line, "/generate ")) {
        begin_stream(fd, body);
    } else if (strstr(line, "/slots")) {
        answer_slots(fd);
    } else if (strstr(line, "/props")) {
        snprintf(json, sizeof json,
                 "{\"total_slots\":%d,\"default_generation_settings\":{\"n_ctx\":%d},\"model_path\":\"harness\",\"chat_template\":\"\","
                 "\"build_info\":\"simulated\",\"simulated\":true}",
                 slots_total, ctx_tokens);
        answer(fd, "application/json", json);
    } else if (strstr(line, "/tokenize")) {
        answer(fd, "application/json", "{\"tokens\":[1,2,3,4,5,6,7,8]}");
    } else if (strstr(line, "/apply-template")) {
        answer(fd, "application/json", "{\"prompt\":\"chat\"}");
    } else if (strstr(line, "/v1/models")) {
        answer(fd, "application/json", "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"max_model_len\":4096}]}");
    } else if (strstr(line, "/metrics")) {
        answer(fd, "text/plain", "# HELP llamacpp:tokens_predicted_total x\nllamacpp:tokens_predicted_total 0\n");
    } else {
        answer(fd, "application/json", "{\"status\":\"ok\",\"model_path\":\"m\",\"served_model_name\":\"m\",\"is_generation\":true}");
    }
}

/* Find the end of one request in c->in; 0 when it is not whole yet. */
static size_t whole_request(const Conn *c, size_t *body_at) {
    char *end = c->in_bytes ? strstr(c->in, "\r\n\r\n") : NULL;
    if (!end) return 0;
    *body_at = (size_t)(end - c->in) + 4;
    char *length = strcasestr(c->in, "content-length:"), *coding = strcasestr(c->in, "transfer-encoding: chunked");
    if (coding && coding < end) {
        char *last = strstr(c->in + *body_at, "0\r\n\r\n");
        return last ? (size_t)(last - c->in) + 5 : 0;
    }
    size_t bytes = *body_at + (length && length < end ? strtoul(length + 15, NULL, 10) : 0);
    return c->in_bytes >= bytes ? bytes : 0;
}

static void engine_readable(int fd) {
    Conn *c = &conns[fd];
    ssize_t bytes = recv(fd, scratch, READ_BYTES, MSG_DONTWAIT);
    if (bytes <= 0) {
        if (bytes < 0 && errno == EAGAIN) return;
        drop(fd);
        return;
    }
    keep(c, scratch, (size_t)bytes);
    size_t body_at, whole;
    while (c->kind == ENGINE && !c->streaming && (whole = whole_request(c, &body_at)) > 0) {
        char *end_of_head = c->in + body_at - 2, *closing = strcasestr(c->in, "connection: close");
        c->close_after = closing && closing < end_of_head;
        char *line_end = strchr(c->in, '\r');
        *line_end = 0;
        char after = c->in[whole];
        c->in[whole] = 0;
        serve_request(fd, c->in, c->in + body_at);
        if (c->kind != ENGINE) return;
        c->in[whole] = after;
        memmove(c->in, c->in + whole, c->in_bytes - whole);
        c->in_bytes -= whole;
        c->in[c->in_bytes] = 0;
    }
}

/* ---- the client ---- */

static void begin_request(int fd) {
    Conn *c = &conns[fd];
    char digits[16];
    c->link = next_number++ % (LINKS - 1);
    snprintf(digits, sizeof digits, "%08d", c->link);
    memcpy(run.digits, digits, 8);
    c->head_seen = false;
    c->sent = 0;
    c->in_bytes = 0;
    c->begun_s = now_s();
    client_of[c->link] = fd;
    run.started++;
    if (!send_all(fd, run.request, run.request_bytes)) run.errors++;
}

static void note_problem(const char *what, const char *data, size_t bytes) {
    run.errors++;
    if (run.problem[0]) return;
    size_t used = (size_t)snprintf(run.problem, sizeof run.problem, "%s: ", what);
    for (size_t i = 0; i < bytes && used + 2 < sizeof run.problem; i++)
        run.problem[used++] = (data[i] < ' ' || data[i] == '"' || data[i] == '\\' || data[i] > '~') ? ' ' : data[i];
    run.problem[used] = 0;
}

static void input_readable(void);

/* Whoever looks at the servers at a mark may come late to it, and the load must not be over by then. */
static void mark(const char *name) {
    double at_s = now_s();
    told_to_go = false;
    printf("{\"mark\":\"%s\",\"tokens\":%ld,\"at_s\":%.6f}\n", name, run.tokens_read, at_s - run.stood_s);
    fflush(stdout);
    while (run.pace_s == 0 && !told_to_go) input_readable();
    run.stood_s += now_s() - at_s;
}

static void token_read(int fd, double at_s) {
    Conn *c = &conns[fd];
    if (c->sent++ == 0) {
        if (run.first_ms && run.opened < run.total) run.first_ms[run.opened] = (at_s - c->begun_s) * 1e3;
        run.opened++;
    }
    run.tokens_read++;
    if (run.tokens_read == run.mark_low) mark("begin");
    if (run.tokens_read == run.mark_high) mark("end");
    int engine = engine_of[c->link];
    if (run.pace_s > 0) {
        if (engine >= 0 && run.token_samples < run.token_room)
            run.token_us[run.token_samples++] = (at_s - conns[engine].token_sent_s) * 1e6;
        return;
    }
    if (run.mode == LOAD && engine >= 0) send_token(engine);
}

static void stream_over(int fd) {
    run.finished++;
    drop(fd);
}

static void stream_readable(int fd) {
    Conn *c = &conns[fd];
    ssize_t bytes = recv(fd, scratch, READ_BYTES, MSG_DONTWAIT);
    double at_s = run.pace_s > 0 || c->sent == 0 ? now_s() : 0;
    if (bytes <= 0) {
        if (bytes < 0 && errno == EAGAIN) return;
        if (c->sent < run.tokens || run.mode == OPEN) note_problem("stream cut", "", 0);
        stream_over(fd);
        return;
    }
    scratch[bytes] = 0;
    if (!c->head_seen) {
        c->head_seen = true;
        if (strncmp(scratch + 8, " 200", 4) != 0) {
            note_problem("refused", scratch, (size_t)bytes);
            stream_over(fd);
            return;
        }
    }
    const char *end = scratch + bytes;
    for (const char *p = scratch; (p = memchr(p, '~', (size_t)(end - p))) != NULL; p++) {
        token_read(fd, at_s);
        if (conns[fd].kind != CLIENT_STREAM) return;
    }
    if (c->sent >= run.tokens && run.mode == LOAD && bytes >= 5 && memcmp(end - 5, "0\r\n\r\n", 5) == 0) stream_over(fd);
}

static void post_readable(int fd) {
    Conn *c = &conns[fd];
    ssize_t bytes = recv(fd, scratch, READ_BYTES, MSG_DONTWAIT);
    if (bytes <= 0) {
        if (bytes < 0 && errno == EAGAIN) return;
        note_problem("connection cut", "", 0);
        stream_over(fd);
        return;
    }
    keep(c, scratch, (size_t)bytes);
    size_t body_at, whole = whole_request(c, &body_at);
    if (!whole) return;
    if (run.first_ms && run.finished < run.total) run.first_ms[run.finished] = (now_s() - c->begun_s) * 1e3;
    if (strncmp(c->in + 8, " 202", 4) != 0) note_problem("refused", c->in, c->in_bytes);
    run.finished++;
    client_of[c->link] = -1;
    if (run.started < run.total) {
        begin_request(fd);
    } else {
        c->link = -1;
        drop(fd);
    }
}

/* ---- commands ---- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double share(double *values, long count, double at) {
    return count ? values[(long)((double)(count - 1) * at)] : 0;
}

static void report_done(void) {
    long firsts = run.mode == POST ? run.finished : run.opened;
    if (firsts > run.total) firsts = run.total;
    qsort(run.first_ms, (size_t)firsts, sizeof(double), ascending);
    qsort(run.token_us, (size_t)run.token_samples, sizeof(double), ascending);
    printf("{\"done\":true,\"finished\":%d,\"errors\":%d,\"tokens\":%ld,\"elapsed_s\":%.6f,\"first_p50_ms\":%.4f,\"first_p99_ms\":%.4f,"
           "\"token_p50_us\":%.2f,\"token_p99_us\":%.2f,\"problem\":\"%s\"}\n",
           run.finished, run.errors, run.tokens_read, now_s() - run.begun_s - run.stood_s, share(run.first_ms, firsts, .5),
           share(run.first_ms, firsts, .99), share(run.token_us, run.token_samples, .5), share(run.token_us, run.token_samples, .99),
           run.problem);
    fflush(stdout);
    free(run.first_ms);
    free(run.token_us);
    run.first_ms = run.token_us = NULL;
    run.token_samples = run.token_room = 0;
    if (run.mode != OPEN) run.mode = IDLE;
}

static void read_template(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    free(run.request);
    run.request = calloc(1, READ_BYTES);
    run.request_bytes = fread(run.request, 1, READ_BYTES - 1, file);
    fclose(file);
    run.digits = strstr(run.request, "@00000000");
    if (!run.digits) {
        fprintf(stderr, "%s holds no @00000000\n", path);
        exit(1);
    }
    run.digits++;
}

static void close_clients(void) {
    for (int fd = 0; fd <= highest; fd++)
        if (conns[fd].kind == CLIENT_STREAM || conns[fd].kind == CLIENT_POST || (conns[fd].kind == ENGINE && conns[fd].streaming)) drop(fd);
    run.mode = IDLE;
    run.pace_s = 0;
    printf("{\"done\":true}\n");
    fflush(stdout);
}

static void obey(const char *line) {
    char verb[8], path[256];
    int port = 0, a = 0, b = 0, c = 0, pace_us = 0;
    int fields = sscanf(line, "%7s %d %255s %d %d %d %d", verb, &port, path, &a, &b, &c, &pace_us);
    if (!strncmp(line, "quit", 4)) exit(0);
    if (!strncmp(line, "go", 2)) {
        told_to_go = true;
        return;
    }
    if (!strncmp(line, "close", 5)) {
        close_clients();
        return;
    }
    if (fields < 4) {
        fprintf(stderr, "cannot read: %s", line);
        exit(1);
    }
    read_template(path);
    run.mode = !strcmp(verb, "load") ? LOAD : !strcmp(verb, "open") ? OPEN : POST;
    run.concurrency = run.mode == OPEN ? 64 : a;
    run.tokens = run.mode == LOAD ? b : 1;
    run.total = run.mode == LOAD ? c : run.mode == OPEN ? a : b;
    run.pace_s = run.mode == LOAD ? pace_us / 1e6 : 0;
    run.started = run.finished = run.opened = run.errors = 0;
    run.tokens_read = 0;
    run.stood_s = 0;
    run.problem[0] = 0;
    long all = (long)run.tokens * run.total;
    run.mark_low = run.mode == LOAD ? all / 10 : -1;
    run.mark_high = run.mode == LOAD ? all * 9 / 10 : -1;
    run.first_ms = calloc((size_t)run.total + 1, sizeof(double));
    run.token_room = run.pace_s > 0 ? all : 0;
    run.token_us = calloc((size_t)run.token_room + 1, sizeof(double));
    run.target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    run.begun_s = now_s();
}

static void launch_due(void) {
    const int *leaving = run.mode == OPEN ? &run.opened : &run.finished;
    while (run.started < run.total && run.started - *leaving < run.concurrency) {
        int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
        if (fd < 0 || connect(fd, (struct sockaddr *)&run.target, sizeof run.target) < 0) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd, run.mode == POST ? CLIENT_POST : CLIENT_STREAM);
        begin_request(fd);
    }
}

static void send_due(void) {
    double at_s = now_s();
    for (int fd = 0; fd <= highest; fd++) {
        Conn *c = &conns[fd];
        if (c->kind == ENGINE && c->streaming && c->next_at_s > 0 && c->next_at_s <= at_s) {
            c->next_at_s += run.pace_s;
            send_token(fd);
        }
    }
}

static void input_readable(void) {
    static char held[4096];
    static size_t used;
    ssize_t bytes = read(0, held + used, sizeof held - used - 1);
    if (bytes <= 0) exit(0);
    used += (size_t)bytes;
    held[used] = 0;
    char *end;
    while ((end = strchr(held, '\n')) != NULL) {
        *end = 0;
        obey(held);
        used -= (size_t)(end + 1 - held);
        memmove(held, end + 1, used + 1);
    }
}

/* The engine answers on 127.0.0.1 to 127.0.0.8, so that it can stand for as many replicas. */
static void listen_anywhere(void) {
    struct sockaddr_in here = {.sin_family = AF_INET};
    socklen_t bytes = sizeof here;
    int on = 1;
    for (uint32_t host = 0; host < HOSTS; host++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + host);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || listen(fd, 4096) < 0) die("listen");
        getsockname(fd, (struct sockaddr *)&here, &bytes);
        watch(fd, LISTENER);
    }
    printf("{\"engine_port\":%d}\n", ntohs(here.sin_port));
    fflush(stdout);
}

static void handle(int fd) {
    int on = 1;
    switch (conns[fd].kind) {
        case LISTENER: {
            int peer = accept(fd, NULL, NULL);
            if (peer < 0) return;
            setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            watch(peer, ENGINE);
            return;
        }
        case INPUT: input_readable(); return;
        case ENGINE: engine_readable(fd); return;
        case CLIENT_STREAM: stream_readable(fd); return;
        case CLIENT_POST: post_readable(fd); return;
        case FREE: return;
    }
}

int main(int count, char **words) {
    if (count != 3) {
        fprintf(stderr, "usage: harness SLOTS CTX   (see the head of harness.c)\n");
        return 2;
    }
    slots_total = atoi(words[1]);
    ctx_tokens = atoi(words[2]);
    struct rlimit files = {CONNS, CONNS};
    setrlimit(RLIMIT_NOFILE, &files);
    engine_of = malloc(LINKS * sizeof(int));
    client_of = malloc(LINKS * sizeof(int));
    memset(engine_of, 0xff, LINKS * sizeof(int));
    memset(client_of, 0xff, LINKS * sizeof(int));
    poll_fd = epoll_create1(0);
    listen_anywhere();
    watch(0, INPUT);
    struct epoll_event events[256];
    for (;;) {
        bool running = run.mode != IDLE && run.first_ms;
        if (running) {
            launch_due();
            if (run.pace_s > 0) send_due();
            if (run.finished >= run.total || (run.mode == OPEN && run.opened + run.finished >= run.total)) report_done();
        }
        int ready = epoll_wait(poll_fd, events, 256, running && run.pace_s > 0 ? 0 : -1);
        for (int i = 0; i < ready; i++) handle(events[i].data.fd);
    }
}
