-- user: what holds against a user everywhere, and when that was so.
-- KEYS  1 sanctions, 2 kicked_at
-- returns {now, sanctions (JSON) or false, kicked_at or false}
--!include clock
return {digits(now_ms()), redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2])}
