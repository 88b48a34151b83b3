/* sendmsg and recvmsg: several parts, what is cut off, and descriptors that are handed over. */
#include <sys/uio.h>

#include "network.h"

static char first[10], second[100];

static struct msghdr message_to(struct iovec *parts, size_t count) {
    memset(first, 0, sizeof first);
    memset(second, 0, sizeof second);
    return (struct msghdr){.msg_iov = parts, .msg_iovlen = count};
}

static void parts(int sender, int receiver) {
    struct iovec out[3] = {{"abc", 3}, {"", 0}, {"defghijk", 8}}, in[2] = {{first, 5}, {second, 50}};
    struct msghdr message = {.msg_iov = out, .msg_iovlen = 3};
    CHECK(sendmsg(sender, &message, 0));
    message = message_to(in, 2);
    print_events("message", wait_for(receiver, POLLIN));
    CHECK(recvmsg(receiver, &message, MSG_PEEK));
    CHECK_TEXT(first);
    CHECK_TEXT(second);
    message = message_to(in, 1);
    CHECK(recvmsg(receiver, &message, 0));
    CHECK_TEXT(first);
    CHECK_THAT((message.msg_flags & MSG_TRUNC) != 0);
    message = message_to(in, 2);
    CHECK(recvmsg(receiver, &message, MSG_DONTWAIT));
    message = message_to(in, 2);
    CHECK(recvmsg(receiver, &message, MSG_DONTWAIT));
    message.msg_iovlen = 2000;
    CHECK(sendmsg(sender, &message, 0));
    message = message_to(in, 0);
    CHECK(sendmsg(999, &message, 0));
    CHECK(recvmsg(999, &message, 0));
    CHECK(close(sender) + close(receiver));
}

static void in_a_stream(void) {
    int pair[2];
    connect_pair(pair);
    parts(pair[0], pair[1]);
}

static void in_a_local_stream(void) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    parts(pair[0], pair[1]);
}

static void in_datagrams(void) {
    int server = bound(SOCK_DGRAM, "127.0.0.1"), client = bound(SOCK_DGRAM, "127.0.0.1");
    Internet address = name_of(server), from = {0};
    char text[10] = "";
    struct iovec out = {"to you", 6}, in = {text, 9};
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &out, .msg_iovlen = 1};
    CHECK(sendmsg(client, &message, 0));
    message = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &in, .msg_iovlen = 1};
    print_events("message", wait_for(server, POLLIN));
    CHECK(recvmsg(server, &message, 0));
    CHECK(message.msg_namelen);
    CHECK_THAT(same_address(from, name_of(client)));
    CHECK_TEXT(text);
    CHECK(connect(client, (Address *)&address, sizeof address));
    parts(client, server);
}

static void in_local_datagrams(void) {
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    parts(pair[0], pair[1]);
}

enum { HANDED = 2 };

static ssize_t hand_over(int socket, const int *files, int count) {
    union {
        char bytes[CMSG_SPACE(HANDED * sizeof(int))];
        struct cmsghdr alignment;
    } control = {0};
    struct iovec part = {"f", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    memcpy(CMSG_DATA(header), files, (size_t)count * sizeof(int));
    return sendmsg(socket, &message, 0);
}

static ssize_t take_over(int socket, int *files, size_t room, int flags) {
    union {
        char bytes[CMSG_SPACE(HANDED * sizeof(int))];
        struct cmsghdr alignment;
    } control = {0};
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = room};
    ssize_t length = recvmsg(socket, &message, flags);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS)
        memcpy(files, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
    CHECK_THAT((message.msg_flags & MSG_CTRUNC) != 0);
    return length;
}

static void descriptors(void) {
    int pair[2], ends[2], handed[HANDED] = {-1, -1}, wrong = 999;
    char text[10] = "";
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    CHECK(pipe(ends));
    CHECK(hand_over(pair[0], ends, HANDED));
    CHECK(close(ends[0]) + close(ends[1]));
    CHECK(take_over(pair[1], handed, CMSG_SPACE(sizeof handed), MSG_CMSG_CLOEXEC));
    CHECK(fcntl(handed[0], F_GETFD));
    CHECK(write(handed[1], "through", 7));
    CHECK(close(handed[1]));
    CHECK(read(handed[0], text, 9));
    CHECK_TEXT(text);
    CHECK(read(handed[0], text, 9));
    CHECK(hand_over(pair[0], handed, 1));
    CHECK(take_over(pair[1], handed, 0, 0));
    CHECK(hand_over(pair[0], &wrong, 1));
    CHECK(close(handed[0]) + close(pair[0]) + close(pair[1]));
}

int main(void) {
    RUN(in_a_stream);
    RUN(in_a_local_stream);
    RUN(in_datagrams);
    RUN(in_local_datagrams);
    RUN(descriptors);
    return 0;
}
