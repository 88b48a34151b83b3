-- Tables, an index, a transaction that is taken back, and what is found in the end.
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, born INTEGER);
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)
INSERT INTO people (name, born) SELECT printf('person %05d', n), 1900 + n % 120 FROM numbers;
CREATE INDEX by_year ON people (born);
SELECT count(*), min(name), max(name) FROM people;
SELECT born, count(*) FROM people WHERE born BETWEEN 1950 AND 1955 GROUP BY born;
BEGIN;
DELETE FROM people WHERE born < 2000;
SELECT count(*) FROM people;
ROLLBACK;
SELECT count(*) FROM people;
UPDATE people SET name = upper(name) WHERE id % 1000 = 0;
SELECT name FROM people WHERE id IN (1000, 1001, 20000);
PRAGMA integrity_check;
SELECT round(avg(born), 3), hex(zeroblob(4)) FROM people;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
VACUUM;
SELECT count(*), sum(length(name)) FROM people;
