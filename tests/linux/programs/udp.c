/* UDP within the machine: datagrams one by one, and what becomes of those that nobody takes. */
#include <sys/time.h>
#include <sys/uio.h>

#include "network.h"

static char buffer[1 << 16];

/* No datagram is waited for longer than this. */
static void limit(int socket) {
    struct timeval time = {.tv_sec = 10};
    require(setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0, "SO_RCVTIMEO");
}

static void datagrams(const char *host) {
    int server = bound(SOCK_DGRAM, host), client = CHECK(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    Internet address = name_of(server), from;
    socklen_t length = sizeof from;
    limit(server);
    limit(client);
    CHECK(recvfrom(server, buffer, 10, MSG_DONTWAIT, NULL, NULL));
    CHECK(sendto(client, "first", 5, 0, (Address *)&address, sizeof address));
    CHECK(sendto(client, "second one", 10, 0, (Address *)&address, sizeof address));
    CHECK(sendto(client, "", 0, 0, (Address *)&address, sizeof address));
    print_events("datagrams", wait_for(server, POLLIN | POLLOUT));
    CHECK(recvfrom(server, buffer, 100, MSG_PEEK, (Address *)&from, &length));
    CHECK(recvfrom(server, buffer, 100, 0, (Address *)&from, &length));
    CHECK(length);
    CHECK_THAT(from.sin_port == name_of(client).sin_port && from.sin_addr.s_addr == address.sin_addr.s_addr);
    CHECK(recv(server, buffer, 3, 0));
    CHECK(recv(server, buffer, 100, 0));
    CHECK(recv(server, buffer, 100, MSG_DONTWAIT));
    CHECK(sendto(server, "answer", 6, 0, (Address *)&from, sizeof from));
    CHECK(recv(client, buffer, 100, 0));
    CHECK(sendto(client, "truncated", 9, 0, (Address *)&address, sizeof address));
    CHECK(recv(server, buffer, 4, MSG_TRUNC));
    CHECK(close(server) + close(client));
}

static void over_loopback(void) {
    datagrams("127.0.0.1");
}

static void over_the_own_address(void) {
    datagrams(own_address());
}

static void connected_sockets(void) {
    int server = bound(SOCK_DGRAM, "127.0.0.1"), client = socket(AF_INET, SOCK_DGRAM, 0);
    int stranger = bound(SOCK_DGRAM, "127.0.0.1");
    Internet address = name_of(server), nobody = {.sin_family = AF_UNSPEC};
    socklen_t length = sizeof address;
    limit(server);
    limit(client);
    CHECK(send(client, "x", 1, 0));
    CHECK(getpeername(client, (Address *)&address, &length));
    CHECK(connect(client, (Address *)&address, sizeof address));
    CHECK_THAT(same_address(peer_of(client), address));
    CHECK_THAT(name_of(client).sin_port != 0);
    CHECK(send(client, "connected", 9, 0));
    CHECK(recv(server, buffer, 100, 0));
    CHECK(write(client, "written", 7));
    CHECK(read(server, buffer, 100));
    /* What comes from others is not for a connected socket. */
    Internet own = name_of(client);
    CHECK(sendto(stranger, "strange", 7, 0, (Address *)&own, sizeof own));
    CHECK(sendto(server, "known", 5, 0, (Address *)&own, sizeof own));
    CHECK(recv(client, buffer, 100, 0));
    CHECK(recv(client, buffer, 100, MSG_DONTWAIT));
    CHECK(connect(client, (Address *)&nobody, sizeof nobody));
    CHECK(send(client, "x", 1, 0));
    CHECK(close(server) + close(client) + close(stranger));
}

static void nobody_there(void) {
    int gone = bound(SOCK_DGRAM, "127.0.0.1"), client = socket(AF_INET, SOCK_DGRAM, 0);
    Internet address = name_of(gone);
    limit(client);
    CHECK(close(gone));
    CHECK(connect(client, (Address *)&address, sizeof address));
    CHECK(send(client, "x", 1, 0));
    CHECK(recv(client, buffer, 100, 0));
    CHECK(option(client, SOL_SOCKET, SO_ERROR));
    CHECK(send(client, "x", 1, 0));
    print_events("error", wait_for(client, POLLIN));
    CHECK(option(client, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
    CHECK(close(client));
}

static void several_at_once(void) {
    int server = bound(SOCK_DGRAM, "127.0.0.1"), client = socket(AF_INET, SOCK_DGRAM, 0);
    Internet address = name_of(server);
    struct iovec parts[3] = {{"one", 3}, {"three", 5}, {"fifteen", 7}};
    struct iovec places[3] = {{buffer, 10}, {buffer + 10, 10}, {buffer + 20, 10}};
    struct mmsghdr sent[3] = {0}, received[3] = {0};
    limit(server);
    CHECK(connect(client, (Address *)&address, sizeof address));
    for (int i = 0; i < 3; i++) {
        sent[i].msg_hdr.msg_iov = &parts[i];
        received[i].msg_hdr.msg_iov = &places[i];
        sent[i].msg_hdr.msg_iovlen = received[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK(sendmmsg(client, sent, 3, 0));
    CHECK(sent[1].msg_len);
    CHECK(recvmmsg(server, received, 3, 0, NULL));
    CHECK(received[0].msg_len);
    CHECK(received[2].msg_len);
    CHECK(recvmmsg(server, received, 3, MSG_DONTWAIT, NULL));
    CHECK(close(server) + close(client));
}

static void sizes_and_errors(void) {
    int server = bound(SOCK_DGRAM, "127.0.0.1"), client = socket(AF_INET, SOCK_DGRAM, 0);
    Internet address = name_of(server);
    limit(server);
    CHECK(sendto(client, buffer, 8000, 0, (Address *)&address, sizeof address));
    CHECK(recv(server, buffer, sizeof buffer, 0));
    CHECK(sendto(client, buffer, 65508, 0, (Address *)&address, sizeof address));
    CHECK(sendto(client, "x", 1, 0, (Address *)&address, 3));
    CHECK(sendto(client, "x", 1, 0, NULL, 0));
    CHECK(bind(client, (Address *)&address, sizeof address));
    CHECK(listen(client, 1));
    CHECK(accept(client, NULL, NULL));
    CHECK(shutdown(client, SHUT_WR));
    CHECK(recvfrom(999, buffer, 1, 0, NULL, NULL));
    CHECK(close(server) + close(client));
}

int main(void) {
    RUN(over_loopback);
    RUN(over_the_own_address);
    RUN(connected_sockets);
    RUN(nobody_there);
    RUN(several_at_once);
    RUN(sizes_and_errors);
    return 0;
}
