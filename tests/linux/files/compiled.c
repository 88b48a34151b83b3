/* What the compiler and the assembler of the tests are given: loops, floating point, strings and a table. */
#define NULL ((void *)0)

typedef __SIZE_TYPE__ size_t;
typedef __UINT32_TYPE__ uint32_t;

struct point {
    double x, y;
};

static const uint32_t table[] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4};

uint32_t checksum(const unsigned char *bytes, size_t length) {
    uint32_t sum = ~0u;
    for (size_t i = 0; i < length; i++)
        sum = table[(sum ^ bytes[i]) % 6] ^ sum >> 4;
    return ~sum;
}

double area(const struct point *points, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) {
        const struct point *next = &points[(i + 1) % count];
        sum += points[i].x * next->y - next->x * points[i].y;
    }
    return sum / 2;
}

int compare(const char *left, const char *right) {
    for (; *left != 0 && *left == *right; left++, right++) {
    }
    return (unsigned char)*left - (unsigned char)*right;
}

void sort(int *numbers, size_t count) {
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {
            int swapped = numbers[j];
            numbers[j] = numbers[j - 1];
            numbers[j - 1] = swapped;
        }
}

const char *name_of(int day) {
    switch (day) {
    case 0: return "Sunday";
    case 1: return "Monday";
    case 2: return "Tuesday";
    case 3: return "Wednesday";
    case 4: return "Thursday";
    case 5: return "Friday";
    case 6: return "Saturday";
    default: return NULL;
    }
}
